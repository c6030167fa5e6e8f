"""Quantize in the forward: right behind what is kept, as soon as all it needs is there."""

from __future__ import annotations

from torch import fx

from ..encode.base import Stored
from ..plan.plan import Plan
from .node_builder import Builder


def insert_quantizers(plan: Plan) -> dict[fx.Node, Stored]:
    """Insert the quantize nodes of all anchors; returns anchor -> the nodes to save."""
    builder = Builder.on(plan.joint.module.graph)
    stored: dict[fx.Node, Stored] = {}
    for value, quantizer in plan.anchors.items():
        inputs = quantizer.inputs(value)
        for node in inputs:
            hoist(plan, node)
        with builder.behind(inputs, origin=value) as build:
            stored[value] = quantizer.quantize(build, value)
    return stored


def hoist(plan: Plan, node: fx.Node) -> None:
    """Move an either-side node, and what it needs of that side, up to right behind its inputs."""
    joint = plan.joint
    if node in joint.forward or node.op != "call_function":
        return
    for source in node.all_input_nodes:
        hoist(plan, source)
    if node.all_input_nodes:
        last = max(node.all_input_nodes)
        if last.op == "placeholder":
            last = max(joint.module.graph.find_nodes(op="placeholder"))
        if last.next is not node:
            last.append(node)
