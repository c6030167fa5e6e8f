"""Graph passes over a half that run behind Inductor's own, as its `post_grad_custom_post_pass`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from ..joint.packed_store_regions import group_packed_stores
from ..ops import OPS
from .materialize import mark_for_materialization, upcast_per_reader
from .output_layout import keep_traced_layouts
from .packed_store import PackedStoreRegion
from .switches import disabled, is_on


@dataclass(frozen=True)
class Pass:
    """One pass. run: changes a graph in place, given the targets of our ops. halves: 'forward', 'backward' or both."""

    name: str
    run: Callable[[fx.Graph, Collection[Any]], None]
    halves: tuple[str, ...]


PASSES = (
    Pass("traced_layouts", keep_traced_layouts, ("forward",)),
    Pass("packed_stores", partial(group_packed_stores, region_of=PackedStoreRegion), ("forward",)),
    Pass("upcast_per_reader", upcast_per_reader, ("backward",)),
    Pass("materialize", mark_for_materialization, ("forward", "backward")),
)


@dataclass(frozen=True)
class PostGradPasses(CustomGraphPass):
    """The user's passes, then ours. user_passes: a pass, a list of them, or None. half: 'forward' or 'backward'."""

    user_passes: Any
    half: str

    def __call__(self, graph: fx.Graph) -> None:
        """Change the graph in place."""
        for user_pass in self._user_passes():
            user_pass(graph, is_inference=False) if _is_inference_aware(user_pass) else user_pass(graph)
        our_ops = {op.overload for op in OPS.values()}
        for graph_pass in PASSES:
            if self.half in graph_pass.halves and is_on(graph_pass.name):
                graph_pass.run(graph, our_ops)

    def uuid(self) -> Any:
        """The cache key of all passes; None, which switches caching off, if a user's pass has no key.

        The partitioner's key covers this package's sources.
        """
        keys = [getattr(user_pass, "uuid", lambda: None)() for user_pass in self._user_passes()]
        return None if None in keys else ("approx_fx", self.half, sorted(disabled()), *keys)

    def _user_passes(self) -> tuple[Any, ...]:
        passes = self.user_passes if isinstance(self.user_passes, (list, tuple)) else [self.user_passes]
        return tuple(user_pass for user_pass in passes if user_pass is not None)


def _is_inference_aware(user_pass: Any) -> bool:
    """Whether a pass takes the argument `is_inference`, as a class that came with torch 2.13 does."""
    from torch._inductor import custom_graph_pass

    aware = getattr(custom_graph_pass, "CustomInferenceAwareGraphPass", ())
    return isinstance(user_pass, aware)
