"""The name of a node's op, and skipping ops by name."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx


def name_of(node: fx.Node) -> str:
    """The op's name without namespace and overload: 'relu', 'add', 'getitem', ...; '' for a non-call."""
    if node.op != "call_function":
        return ""
    if node.target is operator.getitem:
        return "getitem"
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[1]
    return getattr(target, "__name__", str(target))


def skip_ops(node: fx.Node, names: frozenset[str]) -> fx.Node:
    """The node reached by following first arguments upwards from `node` while the op's name is in `names`."""
    while name_of(node) in names and node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node
