"""Generate the code that Inductor writes for a GPU, Triton kernels and their wrapper, on a machine without a GPU.

The graph is traced on the CPU with fake tensors; then its values are marked as being on a GPU, and the pass and
Inductor's lowering work as for a GPU. Nothing is run. A trace on a GPU would differ in what torch selects by device
while tracing: the op for attention, and the ops that autocast casts. Convolutions are assumed to be cuDNN's, with
channels-last results for channels-last inputs.
"""

from __future__ import annotations

import contextlib
import re
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import fx, nn
from torch.utils._pytree import tree_map

from approx_fx.config import Config
from approx_fx.explain import trace_on_fakes
from approx_fx.inductor import compile as inductor
from approx_fx.inductor.half import is_coded, settings_for
from approx_fx.passes.pipeline import lower, partition
from approx_fx.torch_compat import aot_partitioner as aot
from approx_fx.torch_compat import fake_tensors
from approx_fx.torch_compat.lazy_graph_module import copy_graph_module

GPU = torch.device("cuda", 0)
CAPABILITY = (9, 0)
PROPERTIES = types.SimpleNamespace(
    name="an H100 that is not here", major=9, minor=0, multi_processor_count=132, warp_size=32, gcnArchName="",
    total_memory=80 * 2**30, L2_cache_size=50 * 2**20, regs_per_multiprocessor=2**16,
    max_threads_per_multi_processor=2048, max_threads_per_block=1024,
    shared_memory_per_block=48 * 2**10, shared_memory_per_block_optin=227 * 2**10,
    shared_memory_per_multiprocessor=228 * 2**10,
)  # fmt: skip
KERNEL = re.compile(r"^(triton_\w+) = async_compile\.triton\('\w+', '''(.*?)''', device_str", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Half:
    """One half of a step. graph: as partitioned, with approx_fx's ops; wrapper: the Python code Inductor generated."""

    graph: fx.GraphModule
    wrapper: str

    @property
    def kernels(self) -> dict[str, str]:
        """The source of each Triton kernel, by name."""
        return dict(KERNEL.findall(self.wrapper))


class _CodeGenerated(Exception):
    """Raised to stop a compile once its code has been generated."""


def triton_code(
    model: nn.Module, inputs: Sequence[Any], dtype: torch.dtype | None = None, **options: Any
) -> tuple[Half, Half]:
    """Generate the code of (forward, backward) of one step of `model(*inputs)`.

    dtype: of the forward under autocast, None without. options: the fields of `Config`; with bits=None the code is that
    of torch.compile. Raises RuntimeError unless the model is traced as exactly one graph with a backward.
    """
    config = Config.of(options)
    pairs: list[tuple[Half, Half]] = []

    def collect(module: fx.GraphModule, values: Sequence[Any]) -> Any:
        def generate(joint: fx.GraphModule, joint_inputs: Sequence[object], **partitioner_options: Any) -> aot.Halves:
            moved_to_gpu(joint)
            with emulated_gpu():
                visible, lowered = _halves(joint, joint_inputs, config, partitioner_options)
                graphs = [copy_graph_module(half) for half in visible]
                outputs = partitioner_options["num_fwd_outputs"]
                forward, strides = _wrapper(lowered[0], outputs)
                _set_strides(lowered[1], strides)
                backward, _ = _wrapper(lowered[1], 0)
                pairs.append((Half(graphs[0], forward), Half(graphs[1], backward)))
            raise _CodeGenerated

        with contextlib.suppress(_CodeGenerated):
            inductor.compile_halves(module, values, inductor.Partitioner("", generate), lambda half, _: half.forward)
        return module.forward

    trace_on_fakes(model, inputs, {}, dtype, collect)
    if len(pairs) != 1:
        raise RuntimeError(f"{type(model).__name__} makes {len(pairs)} graphs that are trained; one is expected.")
    return pairs[0]


def _halves(
    joint: fx.GraphModule, inputs: Sequence[object], config: Config, options: dict[str, Any]
) -> tuple[aot.Halves, aot.Halves]:
    """Both halves before and after lowering; before, they contain approx_fx's ops."""
    if config.bits is None:
        exact = aot.torch_partition(joint, inputs, **options)
        return exact, exact
    aot.simplify_joint_graph(joint)
    partitioned = partition(joint, options["num_fwd_outputs"], config, options.get("static_lifetime_input_indices"))
    visible = copy_graph_module(partitioned.forward), copy_graph_module(partitioned.backward)
    return visible, lower(partitioned, config.lowering)


def moved_to_gpu(joint: fx.GraphModule) -> None:
    """Replace the device of every fake value, and of every device argument, by the GPU, in place."""

    def moved(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        with fake_tensors.mode_of(joint.graph), torch.no_grad():
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=GPU)

    for node in joint.graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = tree_map(moved, node.meta["val"])
        node.meta.pop("tensor_meta", None)
        node.args, node.kwargs = tree_map(
            lambda item: GPU if isinstance(item, torch.device) else item, (node.args, dict(node.kwargs))
        )
    joint.recompile()


def _set_strides(backward: fx.GraphModule, strides: dict[str, tuple[int, ...]]) -> None:
    """Give saved tensors the strides that Inductor chose in the forward. strides: of the forward's outputs, by name."""
    for node in backward.graph.find_nodes(op="placeholder"):
        if node.name in strides:
            with fake_tensors.mode_of(backward.graph), torch.no_grad():
                value = node.meta["val"]
                node.meta["val"] = value.new_empty_strided(value.shape, strides[node.name])


def _wrapper(half: fx.GraphModule, visible: int) -> tuple[str, dict[str, tuple[int, ...]]]:
    """The code that Inductor generates for a half, and the strides of its outputs, by name.

    visible: how many of the first outputs the user sees; 0 for a backward.
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.graph import GraphLowering

    codes: list[Any] = []
    strides: dict[str, tuple[int, ...]] = {}
    names = [getattr(node, "name", "") for node in next(iter(half.graph.find_nodes(op="output"))).args[0]]  # type: ignore[union-attr,arg-type]
    generate = GraphLowering.codegen

    def codegen(self: Any) -> Any:
        codes.append(generate(self)[0])
        for name, output in zip(names, self.graph_outputs, strict=True):
            if hasattr(output, "layout"):
                strides[name] = tuple(map(int, output.get_stride()))
        raise _CodeGenerated

    if visible:
        next(iter(half.graph.find_nodes(op="output"))).meta["user_visible_output_idxs"] = list(range(visible))
    values = [node.meta["val"] for node in half.graph.find_nodes(op="placeholder")]
    inductor.load()
    settings = settings_for(half, not visible, None) if is_coded(half) else contextlib.nullcontext()
    with (
        mock.patch.object(GraphLowering, "codegen", codegen),
        config.patch({"fx_graph_cache": False}),
        tracing(TracingContext(fake_tensors.mode_of(half.graph))),
        settings,
    ):
        try:
            compile_fx_inner(half, values, is_backward=not visible, static_input_idxs=())
        except Exception:
            if not codes:
                raise
    return str(getattr(codes[0], "value", codes[0])), strides


def convolution_layout(image: torch.Tensor, weight: torch.Tensor, _: Any) -> torch.memory_format:
    """The memory format of a convolution's result in cuDNN."""
    for value in (image, weight):
        if value.dim() == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
    return torch.contiguous_format


@contextlib.contextmanager
def emulated_gpu() -> Iterator[None]:
    """Make torch and Triton report one GPU, as far as code generation needs it."""
    from torch._dynamo.device_interface import CudaInterface
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    target = GPUTarget("cuda", 10 * CAPABILITY[0] + CAPABILITY[1], PROPERTIES.warp_size)
    triton_driver = types.SimpleNamespace(get_current_target=lambda: target, get_current_device=lambda: 0)
    state = torch.zeros(16, dtype=torch.uint8)
    replacements: dict[str, Callable[..., Any]] = {
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.get_device_name": lambda *_: PROPERTIES.name,
        "torch.cuda.get_device_capability": lambda *_: CAPABILITY,
        "torch.cuda.get_device_properties": lambda *_: PROPERTIES,
        "torch.cuda.get_rng_state": lambda *_: state,
        "torch.cuda.set_rng_state": lambda *_: None,
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda._exchange_device": lambda _: 0,
        "torch.cuda._maybe_exchange_device": lambda _: 0,
        "torch._subclasses.fake_tensor.init_gpu_context": lambda *_: None,
        "torch._inductor.scheduler.has_triton": lambda *_: True,
        "torch._inductor.async_compile.AsyncCompile.triton": lambda *_, **__: None,
        "torch._C._conv_determine_backend_memory_format": convolution_layout,
        "torch.Tensor.copy_": lambda tensor, *_: (
            tensor
        ),  # a torch without CUDA raises here, and fake tensors have no data to copy
    }
    with contextlib.ExitStack() as stack:
        for name, replacement in replacements.items():
            stack.enter_context(mock.patch(name, replacement))
        properties = staticmethod(lambda *_: PROPERTIES)
        stack.enter_context(mock.patch.object(CudaInterface, "get_device_properties", properties))
        stack.enter_context(mock.patch.object(driver, "_active", triton_driver))
        yield
