"""Inserts the encoding of each anchor into the forward, right behind the last of the nodes that it reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from ..encode.base import Stored
from ..joint.graph import JointGraph
from .node_builder import Builder
from .state import Partition


@dataclass(frozen=True)
class InsertQuantize:
    """Pass: encode every anchor in the forward. The nodes that are saved for it go to `Partition.stored`."""

    def __call__(self, partition: Partition) -> Partition:
        """Insert the encodings, in the order of the anchors."""
        joint = partition.plan.joint
        builder = Builder.on(joint.module.graph)
        stored: dict[fx.Node, Stored] = {}
        for value, encoding in partition.plan.anchors.items():
            inputs = encoding.inputs(value)
            for node in inputs:
                _hoist(joint, node)
            with builder.behind(inputs, origin=value) as build:
                stored[value] = encoding.encode(build, value)
        return replace(partition, stored=stored)


def _hoist(joint: JointGraph, node: fx.Node) -> None:
    """Move a node outside the forward, and its inputs outside the forward, up to right behind their own inputs."""
    if node in joint.forward or node.op != "call_function":
        return
    for source in node.all_input_nodes:
        _hoist(joint, source)
    if node.all_input_nodes:
        last = max(node.all_input_nodes)
        if last.op == "placeholder":
            last = max(joint.module.graph.find_nodes(op="placeholder"))
        if last.next is not node:
            last.append(node)
