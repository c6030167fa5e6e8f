"""What Inductor writes for a GPU that is not here: Triton kernels, and the calls around them.

The graph is traced on the CPU with fake tensors, its values are then said to lie on a GPU, and from there on the pass
and Inductor's lowering do what they do for one. Nothing is run. What differs from a trace on a GPU is what torch picks
by device while tracing: attention's op, and autocast's list. Convolutions are taken to be cuDNN's: channels-last in,
channels-last out.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
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
from approx_fx.inductor import compile as inductor
from approx_fx.inductor.half import is_coded, settings_for
from approx_fx.passes.pipeline import lower, partition
from approx_fx.torch_compat import aot_partitioner as aot
from approx_fx.torch_compat import fake_tensors
from approx_fx.torch_compat.dynamo import trace_apart
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
    """One half of a step. graph: as it was partitioned, our ops visible; wrapper: Inductor's Python code for it."""

    graph: fx.GraphModule
    wrapper: str

    @property
    def kernels(self) -> dict[str, str]:
        """The source of each Triton kernel, by name."""
        return dict(KERNEL.findall(self.wrapper))


class _Written(Exception):
    """The code is known: no more has to be done."""


def triton_code(
    model: nn.Module, inputs: Sequence[Any], dtype: torch.dtype | None = None, **options: Any
) -> tuple[Half, Half]:
    """(forward, backward) of one step of `model(*inputs)`. dtype: for the forward under autocast.

    options: the fields of `Config`; with bits=None torch.compile's own code, of its own partition. Raises RuntimeError
    where the model makes more than one graph that is trained, or none.
    """
    config = Config.of(options)
    pairs: list[tuple[Half, Half]] = []

    def collect(module: fx.GraphModule, values: Sequence[Any]) -> Any:
        def written(joint: fx.GraphModule, joint_inputs: Sequence[object], **given: Any) -> aot.Halves:
            moved_to_gpu(joint)
            with pretended():
                halves = _halves(joint, joint_inputs, config, given)
                graphs = [copy_graph_module(half) for half in halves[0]]
                outputs = given["num_fwd_outputs"]
                forward, strides = _wrapper(halves[1][0], outputs)
                _lay(halves[1][1], strides)
                backward, _ = _wrapper(halves[1][1], 0)
                pairs.append((Half(graphs[0], forward), Half(graphs[1], backward)))
            raise _Written

        with contextlib.suppress(_Written):
            inductor.compile_halves(module, values, inductor.Partitioner("", written), lambda half, _: half.forward)
        return module.forward

    with fake_tensors.fake_mode_for_model() as mode:
        replaced = {id(t): mode.from_tensor(t) for t in itertools.chain(model.parameters(), model.buffers())}
        double = copy.deepcopy(model, replaced)
        given = tree_map(lambda item: mode.from_tensor(item) if isinstance(item, torch.Tensor) else item, inputs)
        cast = torch.autocast("cpu", dtype) if dtype is not None else contextlib.nullcontext()
        with cast, torch.enable_grad():
            trace_apart(double, given, collect)
    if len(pairs) != 1:
        raise RuntimeError(f"{type(model).__name__} makes {len(pairs)} graphs that are trained; one is expected.")
    return pairs[0]


def _halves(
    joint: fx.GraphModule, inputs: Sequence[object], config: Config, given: dict[str, Any]
) -> tuple[aot.Halves, aot.Halves]:
    """Both halves with our ops visible, and lowered."""
    if config.bits is None:
        exact = aot.torch_partition(joint, inputs, **given)
        return exact, exact
    aot.simplify_joint_graph(joint)
    done = partition(joint, given["num_fwd_outputs"], config, given.get("static_lifetime_input_indices"))
    visible = copy_graph_module(done.forward), copy_graph_module(done.backward)
    return visible, lower(done, config.lowering)


def moved_to_gpu(joint: fx.GraphModule) -> None:
    """Say of every value, and of every argument, that it lies on the GPU."""

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


def _lay(backward: fx.GraphModule, strides: dict[str, tuple[int, ...]]) -> None:
    """Say of what the forward saves that it lies as Inductor laid it out. strides: of its outputs, by name."""
    for node in backward.graph.find_nodes(op="placeholder"):
        if node.name in strides:
            with fake_tensors.mode_of(backward.graph), torch.no_grad():
                value = node.meta["val"]
                node.meta["val"] = value.new_empty_strided(value.shape, strides[node.name])


def _wrapper(half: fx.GraphModule, visible: int) -> tuple[str, dict[str, tuple[int, ...]]]:
    """Inductor's code for a half, and the strides of its outputs, by name.

    visible: how many of its outputs, the first, a caller sees; 0 for a backward.
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
        for name, made in zip(names, self.graph_outputs, strict=True):
            if hasattr(made, "layout"):
                strides[name] = tuple(map(int, made.get_stride()))
        raise _Written

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
    """The memory format of cuDNN's result."""
    for value in (image, weight):
        if value.dim() == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
    return torch.contiguous_format


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    """torch and Triton inside see one GPU, as far as writing code goes."""
    from torch._dynamo.device_interface import CudaInterface
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    target = GPUTarget("cuda", 10 * CAPABILITY[0] + CAPABILITY[1], PROPERTIES.warp_size)
    triton_driver = types.SimpleNamespace(get_current_target=lambda: target, get_current_device=lambda: 0)
    state = torch.zeros(16, dtype=torch.uint8)
    answers: dict[str, Callable[..., Any]] = {
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
        "torch.Tensor.copy_": lambda own, *_: own,  # torch without CUDA refuses it, and nothing is there to copy
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch(name, answer))
        properties = staticmethod(lambda *_: PROPERTIES)
        stack.enter_context(mock.patch.object(CudaInterface, "get_device_properties", properties))
        stack.enter_context(mock.patch.object(driver, "_active", triton_driver))
        yield
