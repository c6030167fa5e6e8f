"""One compiled graph as plain data: what torch.compile saves and what this pass saves, ready to be drawn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import fx

from ...joint.attribution import module_of, source_of
from ...joint.fake_values import sizes, tensor
from ...joint.op_table import VIEWS
from ...joint.ops import name_of, skip_ops
from ..data import GraphReport
from ..partitions import BothPartitions
from .liveness import Moments, moments_of
from .nodes import Node, chain_members, nodes_of


@dataclass(frozen=True)
class Saved:
    """One tensor that crosses over. coding: a quantizer's name, or 'exact'; bits: of its code, 0 if exact.

    module, used_in: where it is made, and whose backwards read it. error, early: see `report.Row`.
    """

    name: str
    module: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    coding: str
    bits: int
    bytes_before: int
    bytes_after: int
    consumers: tuple[str, ...]
    used_in: tuple[str, ...]
    source: str
    reason: str = ""
    error: float = 0.0
    early: int = 0


@dataclass(frozen=True)
class Side:
    """A graph under one partition: torch.compile's, or this pass's."""

    saved: tuple[Saved, ...]
    moments: Moments
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Picture:
    """A graph, or several one after the other, under both. order: modules as the forward enters them."""

    before: Side
    after: Side
    order: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return dataclasses.asdict(self)


def picture(seen: BothPartitions) -> Picture:
    """All that is drawn of a graph. Where its exact partition is not known, that side is empty."""
    report, saved, theirs, ours = seen.report, seen.exact.saved, seen.exact.halves, seen.ours
    chains = chain_members(ours.plan.batch_norms) if ours is not None else {}
    if theirs is None:
        nothing = Side((), Moments((), 0, ()), ())
        return Picture(nothing, nothing, ())
    readers = _readers(saved, theirs[1])
    before = Side(
        tuple(_exact(node, count, readers[node]) for node, count in saved.items()),
        moments_of(*theirs),
        nodes_of(*theirs, (), chains),
    )
    after = before
    if ours is not None:
        copies = {copy.name for copy in ours.copies}
        codes = {node.name for value, nodes in ours.stored.items() if ours.plan.anchors[value].coded for node in nodes}
        halves = ours.forward, ours.backward
        after = Side(_coded(report), moments_of(*halves, codes, copies), nodes_of(*halves, copies, chains))
    order = dict.fromkeys(node.module for side in (before, after) for node in side.nodes if node.side == "forward")
    return Picture(before, after, tuple(order))


def _readers(saved: dict[fx.Node, int], backward: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """Saved value -> the nodes of the backward that read it, or a view of it, which may be what is handed over."""
    given = {place.name: place for place in backward.graph.find_nodes(op="placeholder")}
    found: dict[fx.Node, list[fx.Node]] = {value: [] for value in saved}
    for node in next(iter(saved)).graph.nodes if saved else ():
        root = skip_ops(node, VIEWS)
        if root in found and node.name in given:
            found[root].extend(given[node.name].users)
    return found


def _exact(node: fx.Node, count: int, readers: list[fx.Node]) -> Saved:
    own = tensor(node)
    return Saved(
        node.name,
        module_of(node),
        name_of(node),
        sizes(own) if own is not None else (),
        str(own.dtype).removeprefix("torch.") if own is not None else "",
        "exact",
        0,
        count,
        count,
        tuple(sorted({name_of(user) for user in readers} - {""})),
        tuple(dict.fromkeys(map(module_of, readers))),
        source_of(node),
    )


def _coded(report: GraphReport) -> tuple[Saved, ...]:
    rows = [
        Saved(row.name, row.module, row.op, row.shape, row.dtype, row.quantizer + ("+mask" if row.carries_mask else ""),
              row.bits, row.bytes_before, row.bytes_after, row.consumers, row.used_in, row.source, "", row.error,
              row.early)
        for row in report.tensors
    ]  # fmt: skip
    kept = [
        Saved(row.name, row.module, row.op, row.shape, row.dtype, "exact", 0, row.bytes, row.bytes, row.consumers,
              row.used_in, row.source, row.reason)
        for row in report.kept
    ]  # fmt: skip
    return (*rows, *kept)
