"""Predict the peak bytes alive in a step from the live ranges of the values of its two graphs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import fx

from ..joint.fake_values import nbytes, tensor
from ..joint.op_table import VIEWS, name_of, skip_ops, traits
from ..ops import reference_of


@dataclass(frozen=True)
class Event:
    """A node of a half has run. allocates: its result has memory of its own; freed: values whose last reader it is."""

    node: fx.Node
    allocates: bool
    freed: tuple[fx.Node, ...]


def predicted_peak(forward: fx.GraphModule, backward: fx.GraphModule, activations: Collection[str] = ()) -> int:
    """Predicted peak bytes of activations and gradients in one step, without parameters and inputs.

    activations: names of inputs that another graph computed; what the backward keeps of them counts.

    Walks both graphs in their order. An elementwise result with one reader is assumed to be fused into that reader;
    saved and returned values are materialized.
    """
    return max(_peak(forward, []), _peak(backward, handed_over(backward, activations)))


def handed_over(backward: fx.GraphModule, activations: Collection[str] = ()) -> list[fx.Node]:
    """The placeholders alive when the backward starts: saved tensors, of inputs only `activations`, and gradients."""
    return [
        node
        for node in backward.graph.find_nodes(op="placeholder")
        if not node.name.startswith("primals") or node.name in activations
    ]


def events(half: fx.GraphModule, start: list[fx.Node]) -> Iterator[Event]:
    """The nodes that allocate or free memory, in their order. start: the placeholders that count and are freed."""
    nodes = list(half.graph.nodes)
    last_reader: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        for source in node.all_input_nodes:
            last_reader[_storage(source)] = node
    counted = set(start)
    freed_by: dict[fx.Node, list[fx.Node]] = {}
    for source, reader in last_reader.items():
        if source in counted or (source.op == "call_function" and _materialized(source)):
            freed_by.setdefault(reader, []).append(source)
    for node in nodes:
        allocates = node.op == "call_function" and _materialized(node)
        if allocates or node in freed_by:
            yield Event(node, allocates, tuple(freed_by.get(node, ())))


def _peak(half: fx.GraphModule, start: list[fx.Node]) -> int:
    live = peak = sum(map(nbytes, start))
    for event in events(half, start):
        if event.allocates:
            live += nbytes(event.node)
            peak = max(peak, live)
        live -= sum(map(nbytes, event.freed))
    return peak


def _storage(node: fx.Node) -> fx.Node:
    return skip_ops(node, VIEWS)


def _materialized(node: fx.Node) -> bool:
    if tensor(node) is None or traits(node).view or name_of(node) in ("full", "scalar_tensor"):
        return False
    fuses = traits(node).fuses or reference_of(node.target) is not None
    return not (fuses and len(node.users) == 1 and next(iter(node.users)).op != "output")
