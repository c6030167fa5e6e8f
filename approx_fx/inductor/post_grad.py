"""The passes over a half's graph that run behind Inductor's own, as its `post_grad_custom_post_pass`."""

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
    """One pass. run: changes a graph in place, given the targets of our ops; halves: those that it runs on."""

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
    """A user's own pass, or passes, and then ours. half: 'forward' or 'backward'."""

    users: Any
    half: str

    def __call__(self, graph: fx.Graph) -> None:
        """Change the graph in place."""
        for users in self._users():
            users(graph, is_inference=False) if _is_inference_aware(users) else users(graph)
        ours = {op.overload for op in OPS.values()}
        for each in PASSES:
            if self.half in each.halves and is_on(each.name):
                each.run(graph, ours)

    def uuid(self) -> Any:
        """Of the user's passes, beside what ours depend on; None, which switches caching off, where one has none.

        This package's sources are in the partitioner's key.
        """
        theirs = [getattr(users, "uuid", lambda: None)() for users in self._users()]
        return None if None in theirs else ("approx_fx", self.half, sorted(disabled()), *theirs)

    def _users(self) -> tuple[Any, ...]:
        given = self.users if isinstance(self.users, (list, tuple)) else [self.users]
        return tuple(each for each in given if each is not None)


def _is_inference_aware(users: Any) -> bool:
    """Whether it is a pass that wants to know if the graph is an inference's, a class that torch 2.13 brought."""
    from torch._inductor import custom_graph_pass

    aware = getattr(custom_graph_pass, "CustomInferenceAwareGraphPass", ())
    return isinstance(users, aware)
