"""Replaces torch's functions over recurrent layers, in a module that Dynamo traced, by those of this package."""

from __future__ import annotations

from torch import fx

from .layers import STAND_INS


def replace_recurrent_layers(module: fx.GraphModule) -> None:
    """Replace them in place.

    AOTAutograd then traces the stand-ins, whose gates are ordinary values of the joint graph.
    """
    calls = [node for node in module.graph.nodes if node.op == "call_function" and node.target in STAND_INS]
    for node in calls:
        node.target = STAND_INS[node.target]
    if calls:
        module.recompile()
