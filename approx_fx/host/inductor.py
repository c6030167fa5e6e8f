"""torch._inductor and torch._dynamo: compiling a traced module with a partitioner of our own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomPartitionerFn
from torch._ops import OpOverload

from .channels_last import gradients_channels_last
from .collector import paused
from .decompose import table
from .digits import digits_joined
from .early import probe, submitted
from .estimate import peak_estimated
from .fake import mode_of
from .frames import roomy
from .fusion import decoded_late
from .inner import offsets_seen_through
from .kept import sums_kept
from .limits import more_at_once
from .lowered import lowered
from .narrow import casts_made_anew
from .nested import deep_sources
from .order import permuted_as_it_is
from .outputs import SaveInputsAsTheyAre
from .parts import in_parts
from .quicker import quicker
from .rescue import or_op_by_op
from .sequence import last_parts_considered
from .skimmed import scalars_skimmed
from .staged import staged
from .unmixed import sums_apart
from .vectors import converting
from .wide import wide_statistics

# What a compile replaces in torch it puts back, which takes turns.
_ONE_COMPILE = threading.RLock()

Halves = tuple[fx.GraphModule, fx.GraphModule]


@dataclass(frozen=True)
class Hook(CustomPartitionerFn):
    """A partitioner for one compile: `run` gets the joint graph, its inputs and torch's keyword arguments.

    key: part of the key under which compiled graphs are cached; it names everything that `run` depends on.
    """

    key: str
    run: Callable[..., Halves] = field(compare=False, repr=False)

    def __call__(self, gm: fx.GraphModule, joint_inputs: Sequence[object], **kwargs: Any) -> Halves:
        """(forward, backward) of the joint graph."""
        return self.run(gm, joint_inputs, **kwargs)

    def uuid(self) -> str:
        """The cache key's part."""
        return self.key


def compile_inductor(
    module: fx.GraphModule,
    inputs: Sequence[Any],
    hook: Hook,
    mode: str | None,
    save_inputs: bool,
    references: Mapping[OpOverload, Callable[..., Any]],
    say: Callable[[str, Exception], None] | None = None,
) -> Callable[..., Any]:
    """Compile with Inductor, partitioned by `hook`.

    say: gets 'forward' or 'backward' and why that half could not be compiled, and runs op by op; it raises without.
    mode: torch.compile's mode, such as 'max-autotune'. save_inputs: save inputs themselves, not copies of them in
    another layout; a post-grad pass that the user has set goes first. references: of the ops to be lowered by them.
    """
    from torch._inductor import config, list_mode_options
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    probing = probe(inputs)

    def compile_half(half: fx.GraphModule, *args: Any, **options: Any) -> Any:
        def compiled() -> Any:
            with changed(half, references), submitted(probing):
                return roomy(compile_fx_inner, half, *args, **options)

        if say is None:
            return compiled()
        return or_op_by_op(half, compiled, partial(say, "backward" if options.get("is_backward") else "forward"))

    patches: dict[str, Any] = {**(list_mode_options(mode) if mode else {}), "custom_partitioner_fn": hook}
    if save_inputs:
        theirs = config.post_grad_custom_post_pass
        if theirs is None:
            patches["post_grad_custom_post_pass"] = SaveInputsAsTheyAre()
    with paused(), deep_sources():
        compiled: Any = roomy(compile_fx, module, inputs, inner_compile=compile_half, config_patches=patches)
    return compiled


@contextlib.contextmanager
def changed(half: fx.GraphModule, references: Mapping[OpOverload, Callable[..., Any]]) -> Iterator[None]:
    """Inductor inside compiles a half as we want it. references: see `compile_inductor`. One thread at a time."""
    with (
        _ONE_COMPILE, paused(), wide_statistics(), scalars_skimmed(), quicker(), decoded_late(), converting(),
        sums_kept(), peak_estimated(), staged(half, references), lowered(references), in_parts(half, references),
        permuted_as_it_is(half, references), more_at_once(half, references), offsets_seen_through(half, references),
        last_parts_considered(), gradients_channels_last(half, references), casts_made_anew(half, references),
        sums_apart(half, references), digits_joined(half, references),
    ):  # fmt: skip
        yield


def compile_eager(module: fx.GraphModule, inputs: Sequence[Any], hook: Hook) -> Callable[..., Any]:
    """Run both halves as they are, op by op, after the same decompositions and joint passes as Inductor's."""
    from functorch.compile import make_boxed_func

    def run(graph: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
        return make_boxed_func(graph.forward)

    return compile_halves(module, inputs, hook, run)


def compile_halves(
    module: fx.GraphModule, inputs: Sequence[Any], hook: Hook, compiler: Callable[..., Callable[..., Any]]
) -> Callable[..., Any]:
    """Trace, partition by `hook`, and hand each half to `compiler` (module, example inputs -> boxed callable)."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor import config
    from torch._inductor.compile_fx import partition_fn
    from torch._inductor.virtualized import V

    def partition(joint: fx.GraphModule, joint_inputs: Sequence[object], **options: Any) -> Halves:
        with config.patch(custom_partitioner_fn=hook), V.set_fake_mode(mode_of(joint.graph)):
            return partition_fn(joint, joint_inputs, **options)

    with deep_sources():
        return aot_autograd(fw_compiler=compiler, partition_fn=partition, decompositions=table())(module, inputs)


def load() -> None:
    """Import Inductor, which takes a second: torch.compile, too, does so as it wraps a model, not in the first step."""
    import torch._inductor.compile_fx  # noqa: F401


def cache_dir() -> Path | None:
    """Where Inductor keeps compiled graphs between processes, or None if caching is off."""
    from torch._inductor import config
    from torch._inductor.runtime.cache_dir_utils import cache_dir as inductor_cache_dir

    if config.force_disable_caches or not config.fx_graph_cache:
        return None
    return Path(inductor_cache_dir())


def needs_gradients(inputs: Sequence[Any]) -> bool:
    """Whether a compile for these inputs traces a backward."""
    return torch.is_grad_enabled() and any(isinstance(i, torch.Tensor) and i.requires_grad for i in inputs)


@contextlib.contextmanager
def fresh_dynamo() -> Iterator[None]:
    """Trace from scratch, and leave no trace behind: code compiled for fake tensors is of no use to anybody."""
    import torch._dynamo

    torch._dynamo.reset()
    try:
        yield
    finally:
        torch._dynamo.reset()
