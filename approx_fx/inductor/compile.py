"""Compiling a traced module with Inductor and a partitioner of our own.

A half without our ops is compiled exactly as by torch.compile, and its code is the same, text for text: exact mode,
graphs that fall back, inference. A half with our ops is compiled with the settings of `half.settings_for`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomPartitionerFn

from ..process.recursion_limit import raised_recursion_limit
from ..torch_compat import cpu_instructions
from ..torch_compat.aot_partitioner import Halves
from ..torch_compat.compiled_graph import Hook, call_before
from ..torch_compat.decompositions import inductor_decompositions
from ..torch_compat.fake_tensors import mode_of
from . import lowering
from .fallback import draws_from_saved_seeds, first_that_compiles, run_op_by_op
from .half import is_coded, settings_for
from .patches import warn_of_newer_torch

OnFailure = Callable[[str, Exception], None]


@dataclass(frozen=True)
class Partitioner(CustomPartitionerFn):
    """A partitioner for one compile. run: called with the joint graph, its inputs and torch's keyword arguments.

    key: part of the key under which Inductor caches compiled graphs; it must name everything that `run` depends on.
    """

    key: str
    run: Callable[..., Halves] = field(compare=False, repr=False)

    def __call__(self, gm: fx.GraphModule, joint_inputs: Sequence[object], **kwargs: Any) -> Halves:
        """Split the joint graph `gm` into (forward, backward)."""
        return self.run(gm, joint_inputs, **kwargs)

    def __deepcopy__(self, memo: Any) -> Partitioner:
        return self  # Inductor copies its options, of which this is one

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, None)  # Inductor pickles its options for the key of its cache

    def uuid(self) -> str:
        """`key`, by the name that torch asks for."""
        return self.key


def compile_inductor(
    module: fx.GraphModule,
    inputs: Sequence[Any],
    partitioner: Partitioner,
    options: Mapping[str, Any],
    patches: Sequence[str] | None = None,
    on_failure: OnFailure | None = None,
    before_forward: Hook | None = None,
    low_peak: bool = False,
) -> Callable[..., Any]:
    """Compile `module` with Inductor, the joint graph split by `partitioner`.

    options: of Inductor's config, by name. patches: names of the rows of `patches.PATCHES` to apply; None for all.
    on_failure: called with 'forward' or 'backward' and the exception if Inductor cannot compile that half, which then
    runs op by op; if None, the exception is raised. before_forward: called with the forward's inputs before each run.
    low_peak: see `settings_for`.
    """
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    load()
    warn_of_newer_torch()
    if any(isinstance(value, torch.Tensor) and value.device.type == "cpu" for value in inputs):
        cpu_instructions.start_asking()

    def compile_half(half: fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
        is_backward = bool(kwargs.get("is_backward"))

        def as_torch_does(graph: fx.GraphModule) -> Any:
            return compile_fx_inner(graph, *args, **kwargs)

        def with_our_settings(graph: fx.GraphModule) -> Any:
            with settings_for(graph, is_backward, patches, low_peak):
                return compile_fx_inner(graph, *args, **kwargs)

        def seen(compiled: Any) -> Any:
            return compiled if is_backward or before_forward is None else call_before(compiled, before_forward)

        ways = [with_our_settings, as_torch_does] if is_coded(half) else [as_torch_does]
        if on_failure is None:
            return seen(ways[0](half))
        name = "backward" if is_backward else "forward"
        if draws_from_saved_seeds(half):
            return seen(first_that_compiles(half, ways, lambda _: None))
        return seen(first_that_compiles(half, [*ways, run_op_by_op], partial(on_failure, name)))

    changes: dict[str, Any] = {**options, "custom_partitioner_fn": partitioner}
    with raised_recursion_limit():
        compiled: Any = compile_fx(module, inputs, inner_compile=compile_half, config_patches=changes)
    return compiled


def compile_halves(
    module: fx.GraphModule,
    inputs: Sequence[Any],
    partitioner: Partitioner,
    compiler: Callable[..., Callable[..., Any]] = lambda half, _: run_op_by_op(half),
    before_forward: Hook | None = None,
    seeds: bool = True,
) -> Callable[..., Any]:
    """Trace as Inductor does, with its joint passes; split by `partitioner`; compile each half by `compiler`.

    compiler: (half, inputs) -> a boxed callable; the default runs a half op by op. before_forward: called with the
    forward's inputs before each run. seeds: draw random numbers from saved seeds, which only Inductor's code can draw
    again; otherwise torch's random ops are left as they are.
    """
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor import config
    from torch._inductor.compile_fx import partition_fn
    from torch._inductor.virtualized import V

    def partition(joint: fx.GraphModule, joint_inputs: Sequence[object], **options: Any) -> Halves:
        changes = {"custom_partitioner_fn": partitioner, **({} if seeds else {"fallback_random": True})}
        with config.patch(changes), V.set_fake_mode(mode_of(joint.graph)):
            return partition_fn(joint, joint_inputs, **options)

    def compile_forward(half: fx.GraphModule, values: Sequence[Any]) -> Any:
        compiled = compiler(half, values)
        return compiled if before_forward is None else call_before(compiled, before_forward)

    compilers: dict[str, Any] = {"fw_compiler": compile_forward, "bw_compiler": compiler}
    decompositions = inductor_decompositions()
    with raised_recursion_limit():
        return aot_autograd(**compilers, partition_fn=partition, decompositions=decompositions)(module, inputs)


def load() -> None:
    """Import Inductor, which takes a second, and register the lowerings of our ops; only the first call does anything.

    torch.compile imports Inductor at the same point, when it wraps a model, not in the first step.
    """
    import torch._inductor.compile_fx  # noqa: F401

    lowering.register_lowerings()


def cache_dir() -> Path | None:
    """The folder in which Inductor caches compiled graphs across processes, or None if caching is off."""
    from torch._inductor import config
    from torch._inductor.runtime.cache_dir_utils import cache_dir as inductor_cache_dir

    if config.force_disable_caches or not config.fx_graph_cache:
        return None
    return Path(inductor_cache_dir())
