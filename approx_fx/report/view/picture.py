"""One compiled graph as plain data for drawing: what torch.compile saves, and what this pass saves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import fx

from ...joint.attribution import module_of, source_of
from ...joint.fake_values import sizes, tensor
from ...joint.op_table import VIEWS, name_of, skip_ops
from ..data import GraphReport
from ..partitions import BothPartitions
from .liveness import Moments, moments_of
from .nodes import Node, chain_members, nodes_of


@dataclass(frozen=True)
class Saved:
    """One saved tensor. coding: the encoding's name, or 'exact'; bits: of its code, 0 if exact.

    module: the one that computes it; used_in: those whose backward reads it. error, early, measured: see
    `report.data.Row`.
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
    measured: float | None = None


@dataclass(frozen=True)
class Side:
    """A graph under one partition: torch.compile's, or this pass's."""

    saved: tuple[Saved, ...]
    moments: Moments
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Picture:
    """One graph, or several one after the other, under both partitions. order: modules as the forward enters them."""

    before: Side
    after: Side
    order: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The picture as JSON data."""
        return dataclasses.asdict(self)


def picture(partitions: BothPartitions) -> Picture:
    """The picture of a graph; empty where torch's own partition was not carried out."""
    saved, torch_halves, coded = partitions.by_torch.saved, partitions.by_torch.halves, partitions.coded
    chains = chain_members(coded.plan.batch_norms) if coded is not None else {}
    if torch_halves is None:
        empty = Side((), Moments((), 0, ()), ())
        return Picture(empty, empty, ())
    readers = _readers(saved, torch_halves[1])
    activations = {node.name for node in saved if node.op == "placeholder"}
    activations |= {node.name for node in coded.plan.joint.activations} if coded is not None else set()
    before = Side(
        tuple(_exact(node, size, readers[node]) for node, size in saved.items()),
        moments_of(*torch_halves, activations=activations),
        nodes_of(*torch_halves, (), chains),
    )
    after = before
    if coded is not None:
        copies = {copy.name for copy in coded.copies}
        codes = {
            node.name for value, nodes in coded.stored.items() if coded.plan.anchors[value].coded for node in nodes
        }
        halves = coded.forward, coded.backward
        moments = moments_of(*halves, codes, copies, activations)
        after = Side(_coded(partitions.report), moments, nodes_of(*halves, copies, chains))
    order = dict.fromkeys(node.module for side in (before, after) for node in side.nodes if node.side == "forward")
    return Picture(before, after, tuple(order))


def _readers(saved: dict[fx.Node, int], backward: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """Saved value -> the nodes of the backward that read it; what the halves pass may be a view of it."""
    placeholders = {node.name: node for node in backward.graph.find_nodes(op="placeholder")}
    readers: dict[fx.Node, list[fx.Node]] = {value: [] for value in saved}
    for node in next(iter(saved)).graph.nodes if saved else ():
        root = skip_ops(node, VIEWS)
        if root in readers and node.name in placeholders:
            readers[root].extend(placeholders[node.name].users)
    return readers


def _exact(node: fx.Node, size: int, readers: list[fx.Node]) -> Saved:
    fake = tensor(node)
    return Saved(
        node.name,
        module_of(node),
        name_of(node),
        sizes(fake) if fake is not None else (),
        str(fake.dtype).removeprefix("torch.") if fake is not None else "",
        "exact",
        0,
        size,
        size,
        tuple(sorted({name_of(user) for user in readers} - {""})),
        tuple(dict.fromkeys(map(module_of, readers))),
        source_of(node),
    )


def _coded(report: GraphReport) -> tuple[Saved, ...]:
    rows = [
        Saved(row.name, row.module, row.op, row.shape, row.dtype, row.quantizer + ("+mask" if row.carries_mask else ""),
              row.bits, row.bytes_before, row.bytes_after, row.consumers, row.used_in, row.source, "", row.error,
              row.early, row.measured)
        for row in report.tensors
    ]  # fmt: skip
    kept = [
        Saved(row.name, row.module, row.op, row.shape, row.dtype, "exact", 0, row.bytes, row.bytes, row.consumers,
              row.used_in, row.source, row.reason)
        for row in report.kept
    ]  # fmt: skip
    return (*rows, *kept)
