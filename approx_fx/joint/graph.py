"""The joint graph, read: which node belongs to the forward, which to the backward, and what the backward demands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointPolicy

from ..torch_compat import aot_partitioner as aot


@dataclass(frozen=True)
class JointGraph:
    """A joint graph and its sides.

    forward: nodes that the forward's outputs or mutations need. backward: nodes downstream of an incoming gradient.
    Every other node (masks, casts, transposes of weights) is *either*: it may run on whichever side is cheaper.
    parameters: placeholders that are parameters or buffers.
    """

    module: fx.GraphModule
    num_fwd_outputs: int
    forward: frozenset[fx.Node]
    backward: frozenset[fx.Node]
    parameters: frozenset[fx.Node] = frozenset()

    @cached_property
    def order(self) -> dict[fx.Node, int]:
        """Position of each node in the graph."""
        return {node: index for index, node in enumerate(self.module.graph.nodes)}

    @cached_property
    def demands(self) -> dict[fx.Node, list[fx.Node]]:
        """Values of the forward or either side, each with the backward nodes that read it.

        A gradient that does not depend on any incoming gradient is demanded by the output node.
        """
        found: dict[fx.Node, list[fx.Node]] = {}
        for node in self.module.graph.nodes:
            if node.op != "output" and node in self.backward:
                for value in node.all_input_nodes:
                    if value not in self.backward:
                        found.setdefault(value, []).append(node)
        output = self.output
        for gradient in joint_outputs(self.module, self.num_fwd_outputs)[1]:
            if isinstance(gradient, fx.Node) and gradient not in self.backward:
                found.setdefault(gradient, []).append(output)
        return found

    @cached_property
    def output(self) -> fx.Node:
        """The output node."""
        return next(iter(self.module.graph.find_nodes(op="output")))

    @cached_property
    def inputs(self) -> frozenset[fx.Node]:
        """Placeholders of the forward: parameters, buffers, user inputs, seeds."""
        return frozenset(node for node in self.module.graph.nodes if aot.is_primal(node))

    @cached_property
    def mutated(self) -> frozenset[fx.Node]:
        """Inputs that the forward writes to: their old value is gone when the backward runs."""
        return frozenset(
            node.args[0]
            for node in self.module.graph.nodes
            if node.op == "call_function"
            and aot.in_forward_only(node)
            and node.args
            and isinstance(node.args[0], fx.Node)
            and node.args[0] in self.inputs
            and getattr(getattr(node.target, "_schema", None), "is_mutable", False)
        )

    @cached_property
    def fwd_outputs(self) -> frozenset[fx.Node]:
        """Nodes that the forward returns to its caller."""
        outputs, _ = joint_outputs(self.module, self.num_fwd_outputs)
        return frozenset(node for node in outputs if isinstance(node, fx.Node))


def classify(module: fx.GraphModule, num_fwd_outputs: int, static: Iterable[int] = ()) -> JointGraph:
    """Classify the nodes of a joint graph. static: which of its inputs, by index, are parameters or buffers."""
    nodes = list(module.graph.nodes)
    backward: set[fx.Node] = set()
    for node in nodes:
        if node.op == "output":
            continue
        if aot.is_tangent(node) or aot.in_backward_only(node) or any(i in backward for i in node.all_input_nodes):
            backward.add(node)
    outputs, _ = joint_outputs(module, num_fwd_outputs)
    roots = [node for node in outputs if isinstance(node, fx.Node)]
    roots += [node for node in nodes if node not in backward and aot.in_forward_only(node)]
    forward = ancestors(roots) - backward
    forward |= {node for node in nodes if aot.is_primal(node)}
    inputs = module.graph.find_nodes(op="placeholder")
    parameters = frozenset(inputs[index] for index in static if index < len(inputs))
    return JointGraph(module, num_fwd_outputs, frozenset(forward), frozenset(backward), parameters)


def joint_outputs(joint: fx.GraphModule, num_fwd_outputs: int) -> tuple[list[Any], list[Any]]:
    """(forward outputs, gradients) of a joint graph: nodes, or constants such as None."""
    output = next(iter(joint.graph.find_nodes(op="output")))
    results = tree_leaves(output.args[0])
    return results[:num_fwd_outputs], results[num_fwd_outputs:]


def must_save(node: fx.Node) -> bool:
    """Whether a selective policy, or a collective or effect, forbids to compute the node again."""
    return node.meta.get("recompute") in (CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_SAVE)


def is_random(node: fx.Node) -> bool:
    """Whether the node draws from a generator: computed again, it would come out differently."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def ancestors(roots: Iterable[fx.Node]) -> set[fx.Node]:
    """The roots and everything they are computed from."""
    seen: set[fx.Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(node.all_input_nodes)
    return seen
