"""Classifies the nodes of a joint graph: those of the forward, of the backward, and the values the backward demands."""

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
    """A joint graph with its nodes classified.

    forward: nodes that the forward's outputs or mutations need. backward: nodes that depend on an incoming gradient.
    Any other node (a mask, a cast, a weight's transpose) is on the *either* side: it may run in the cheaper half.
    parameters: placeholders that are parameters or buffers. activations: placeholders that another graph computed, with
    a gradient: only what this graph's backward keeps of them stays in memory. num_fwd_outputs: how many of the graph's
    outputs are the forward's; the others are gradients.
    """

    module: fx.GraphModule
    num_fwd_outputs: int
    forward: frozenset[fx.Node]
    backward: frozenset[fx.Node]
    parameters: frozenset[fx.Node] = frozenset()
    activations: frozenset[fx.Node] = frozenset()

    @cached_property
    def order(self) -> dict[fx.Node, int]:
        """Node -> its position in the graph."""
        return {node: index for index, node in enumerate(self.module.graph.nodes)}

    @cached_property
    def demands(self) -> dict[fx.Node, list[fx.Node]]:
        """Value outside the backward -> the backward nodes that read it.

        A gradient that depends on no incoming gradient is demanded by the output node.
        """
        readers: dict[fx.Node, list[fx.Node]] = {}
        for node in self.module.graph.nodes:
            if node.op != "output" and node in self.backward:
                for value in node.all_input_nodes:
                    if value not in self.backward:
                        readers.setdefault(value, []).append(node)
        output = self.output
        for gradient in joint_outputs(self.module, self.num_fwd_outputs)[1]:
            if isinstance(gradient, fx.Node) and gradient not in self.backward:
                readers.setdefault(gradient, []).append(output)
        return readers

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
        """Inputs that the forward, or AOTAutograd behind it, writes to: their old values are lost for the backward."""
        return frozenset(aot.overwritten_after_forward(self.module)) | frozenset(
            node.args[0]
            for node in self.module.graph.nodes
            if node.op == "call_function"
            and aot.in_forward_only(node)
            and node.args
            and isinstance(node.args[0], fx.Node)
            and node.args[0] in self.inputs
            and getattr(getattr(node.target, "_schema", None), "is_mutable", False)
        )


def classify(
    module: fx.GraphModule, num_fwd_outputs: int, static: Iterable[int] = (), activations: Iterable[int] = ()
) -> JointGraph:
    """Classify the nodes of a joint graph. static, activations: indices of its inputs, see `JointGraph`."""
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
    computed = frozenset(node for node in inputs if aot.input_index(node) in set(activations)) - parameters
    return JointGraph(module, num_fwd_outputs, frozenset(forward), frozenset(backward), parameters, computed)


def joint_outputs(joint: fx.GraphModule, num_fwd_outputs: int) -> tuple[list[Any], list[Any]]:
    """The (forward outputs, gradients) that a joint graph returns: nodes, or constants such as None."""
    output = next(iter(joint.graph.find_nodes(op="output")))
    results = tree_leaves(output.args[0])
    return results[:num_fwd_outputs], results[num_fwd_outputs:]


def must_save(node: fx.Node) -> bool:
    """Whether recomputing the node is forbidden, by a checkpoint policy, or as a collective or an effect."""
    return node.meta.get("recompute") in (CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_SAVE)


def is_random(node: fx.Node) -> bool:
    """Whether the node draws from a random generator, so that recomputing it would give other numbers.

    An attention has the tag for its dropout, but draws nothing where dropout_p is 0.
    """
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    return argument(node, "dropout_p") != 0.0


def argument(node: fx.Node, name: str) -> Any:
    """The argument of a call by its name in the op's schema, or its default; None if the op has none of that name."""
    schema = getattr(node.target, "_schema", None)
    for index, parameter in enumerate(schema.arguments if schema is not None else ()):
        if parameter.name == name:
            return node.args[index] if index < len(node.args) else node.kwargs.get(name, parameter.default_value)
    return None


def ancestors(roots: Iterable[fx.Node]) -> set[fx.Node]:
    """The roots and all nodes that they are computed from."""
    visited: set[fx.Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in visited:
            visited.add(node)
            stack.extend(node.all_input_nodes)
    return visited
