"""torch._functorch.partitioners: a half's graph holds copies of the nodes it needs, and each is copied once.

torch's own extraction copies every node that a half could compute, which for the backward is most of the forward, then
drops what is dead; and it extracts the backward twice, the first time to see which saved values it reads. Here the
needed nodes are found first, and the second extraction takes the first one's graph. The outcome is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._functorch import partitioners

EXTRACT = "_extract_graph_with_inputs_outputs"


@contextlib.contextmanager
def copied_once() -> Iterator[None]:
    """Within, torch's splitting of a joint graph copies no node that it drops, and none twice."""
    theirs = getattr(partitioners, EXTRACT)
    last: dict[str | None, _Half] = {}

    def extract(
        joint: fx.Graph, inputs: list[fx.Node], outputs: list[Any], descs: Any, subgraph: str | None = None,
        **options: Any,
    ) -> fx.Graph:  # fmt: skip
        half = last.get(subgraph)
        if half is not None and half.outputs == outputs and half.takes(inputs):
            return half.graph
        found = None if any(options.values()) else needed(joint, inputs, outputs, subgraph)
        if found is None:
            graph: fx.Graph = theirs(joint, inputs, outputs, descs, subgraph, **options)
            return graph
        last[subgraph] = half = _Half.copied(found, inputs, outputs)
        half.describe(descs)
        return half.graph

    setattr(partitioners, EXTRACT, extract)
    try:
        yield
    finally:
        setattr(partitioners, EXTRACT, theirs)


def needed(
    joint: fx.Graph, inputs: Sequence[fx.Node], outputs: Iterable[Any], subgraph: str | None
) -> list[fx.Node] | None:
    """The nodes between `inputs` and `outputs`, in order, with those that have an effect; None if an output is not
    computed from the inputs by nodes that may run in `subgraph`, 'forward' or 'backward'."""
    given = set(inputs)
    possible = set(inputs)
    for node in joint.nodes:
        computed = node.op in ("call_function", "get_attr") and node not in given
        if computed and not _elsewhere(node, subgraph) and possible.issuperset(node.all_input_nodes):
            possible.add(node)
    roots = [node for node in outputs if isinstance(node, fx.Node)]
    if not possible.issuperset(roots):
        return None
    found = behind(roots, given)
    random = _random_has_effect()
    effects = [node for node in possible - found - given if node.op == "call_function" and node.is_impure(random)]
    found |= behind(effects, given)
    return [node for node in joint.nodes if node in found]


def behind(roots: Iterable[fx.Node], given: set[fx.Node]) -> set[fx.Node]:
    """The roots and all that they are computed from, short of what is given."""
    found: set[fx.Node] = set()
    todo = list(roots)
    while todo:
        node = todo.pop()
        if node not in found and node not in given:
            found.add(node)
            todo.extend(node.all_input_nodes)
    return found


def _elsewhere(node: fx.Node, subgraph: str | None) -> bool:
    return (subgraph != "backward" and partitioners._must_be_in_backward(node)) or (
        subgraph != "forward" and partitioners._must_be_in_forward(node)
    )


def _random_has_effect() -> bool:
    """Whether fx's elimination of dead code keeps a draw of random numbers that nobody reads."""
    from torch._inductor import config

    return torch._guards.TracingContext.try_get() is None or bool(config.fallback_random)


@dataclass
class _Half:
    """A half's graph, copied from the joint graph. inputs, outputs: the joint graph's nodes."""

    graph: fx.Graph
    inputs: list[fx.Node]
    outputs: list[Any]
    copies: dict[fx.Node, fx.Node]

    @classmethod
    def copied(cls, nodes: Iterable[fx.Node], inputs: list[fx.Node], outputs: list[Any]) -> _Half:
        """`nodes` behind placeholders for `inputs`."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in inputs:
            copies[node] = graph.placeholder(node.name)
            copies[node].meta = node.meta
        for node in nodes:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        return cls(graph, list(inputs), list(outputs), copies)

    def describe(self, descs: Any) -> None:
        """Add the output node, with torch's descriptions of what is returned and where each comes from."""
        values = [self.copies[item] if isinstance(item, fx.Node) else item for item in self.outputs]
        output = self.graph.output(tuple(values))
        output.meta["desc"] = descs
        traces = [item.meta.get("stack_trace") if isinstance(item, fx.Node) else None for item in values]
        output.meta["output_stack_traces"] = traces

    def takes(self, inputs: list[fx.Node]) -> bool:
        """Drop placeholders that are not among `inputs` and sort the others; False where that cannot be done.

        It can be done where nobody reads those dropped, and where they, if computed instead, would be dead.
        """
        dropped = set(self.inputs).difference(inputs)
        read = any(self.copies[node].users or (node.op == "call_function" and node.is_impure()) for node in dropped)
        if read or not set(inputs) <= set(self.inputs):
            return False
        for node in dropped:
            self.graph.erase_node(self.copies.pop(node))
        first = next(node for node in self.graph.nodes if node.op != "placeholder")
        for node in inputs:
            first.prepend(self.copies[node])
        self.inputs = list(inputs)
        return True
