"""Bytes of a step, predicted from its two graphs: a walk over the live ranges of what they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from ..joint.fake_values import nbytes, tensor
from ..joint.op_table import VIEWS, traits
from ..joint.ops import name_of, skip_ops
from ..ops import reference_of


@dataclass(frozen=True)
class Event:
    """A node of a half has run. made: it takes memory of its own; freed: what goes once it has run."""

    node: fx.Node
    made: bool
    freed: tuple[fx.Node, ...]


def predicted_peak(forward: fx.GraphModule, backward: fx.GraphModule) -> int:
    """Most bytes of activations and gradients alive at once in one step: no parameters, no inputs.

    A liveness walk over both graphs in their order. An elementwise result with one reader is taken to be fused into it;
    what is saved or returned has memory of its own.
    """
    return max(_peak(forward, []), _peak(backward, handed_over(backward)))


def handed_over(backward: fx.GraphModule) -> list[fx.Node]:
    """What is alive when the backward starts: the saved tensors and the incoming gradients."""
    return [node for node in backward.graph.find_nodes(op="placeholder") if not node.name.startswith("primals")]


def events(half: fx.GraphModule, start: list[fx.Node]) -> Iterator[Event]:
    """The nodes that make or free memory, in their order. start: the placeholders that count, and are freed."""
    nodes = list(half.graph.nodes)
    last: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        for source in node.all_input_nodes:
            last[_storage(source)] = node
    counted = set(start)
    ending: dict[fx.Node, list[fx.Node]] = {}
    for source, reader in last.items():
        if source in counted or (source.op == "call_function" and _materialised(source)):
            ending.setdefault(reader, []).append(source)
    for node in nodes:
        made = node.op == "call_function" and _materialised(node)
        if made or node in ending:
            yield Event(node, made, tuple(ending.get(node, ())))


def _peak(half: fx.GraphModule, start: list[fx.Node]) -> int:
    live = peak = sum(map(nbytes, start))
    for event in events(half, start):
        if event.made:
            live += nbytes(event.node)
            peak = max(peak, live)
        live -= sum(map(nbytes, event.freed))
    return peak


def _storage(node: fx.Node) -> fx.Node:
    return skip_ops(node, VIEWS)


def _materialised(node: fx.Node) -> bool:
    if tensor(node) is None or traits(node).view or name_of(node) in ("full", "scalar_tensor"):
        return False
    fuses = traits(node).fuses or reference_of(node.target) is not None
    return not (fuses and len(node.users) == 1 and next(iter(node.users)).op != "output")
