"""Which values are linear in an incoming gradient: computed for the gradient 1, they are multiplied afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..joint.fake_values import tensor
from ..joint.op_table import name_of
from .rows import REGROUP, NotByRows

# Ops whose result is linear in their only tensor operand.
LINEAR = REGROUP | {"neg", "expand", "permute", "clone", "convert_element_type", "alias"}
LINEAR |= {"sum", "mean", "slice", "select", "constant_pad_nd"}
SUMS = frozenset(["add", "sub"])
BILINEAR = frozenset(["mul", "mm"])


def degrees(nodes: Sequence[fx.Node], tangent: fx.Node | None) -> dict[fx.Node, int]:
    """Node -> 1 if it is linear in `tangent`, 0 if it does not depend on it. nodes: in the graph's order.

    Raises:
        NotByRows: a node depends on it otherwise, or is a float16 value, in which a gradient for 1 would vanish.
    """
    degree: dict[fx.Node, int] = {} if tangent is None else {tangent: 1}
    for node in nodes:
        degree[node] = _degree(node, degree)
        if degree[node] and tensor(node).dtype == torch.float16:  # type: ignore[union-attr]
            raise NotByRows("a float16 op, in which its gradient would vanish")
    return degree


def _degree(node: fx.Node, degree: dict[fx.Node, int]) -> int:
    operands = [degree.get(source, 0) for source in node.all_input_nodes]
    if not any(operands):
        return 0
    name = name_of(node)
    if name in LINEAR:
        return 1
    if name == "scatter_add" and degree.get(node.args[2], 0) == 0 and _is_zero(node.args[0]):  # type: ignore[arg-type]
        return 1
    if name in ("select_scatter", "slice_scatter") and _is_zero(node.args[0]):
        return 1
    if name == "fma":
        *factors, addend = node.args
        if sum(degree.get(arg, 0) for arg in factors if isinstance(arg, fx.Node)) == 1:
            return int(degree.get(addend, 0) or _is_zero(addend)) or _not_linear(name)  # type: ignore[arg-type]
    if name in BILINEAR and sum(degree.get(arg, 0) for arg in node.args if isinstance(arg, fx.Node)) == 1:
        return 1
    if name == "div" and degree.get(node.args[1], 0) == 0:  # type: ignore[arg-type]
        return 1
    if name in SUMS and all(degree.get(arg, 0) or _is_zero(arg) for arg in node.args[:2]):  # type: ignore[arg-type]
        return 1
    if name == "where" and degree.get(node.args[0], 0) == 0:  # type: ignore[arg-type]
        choices: Any = node.args[1:3]
        if all(degree.get(choice, 0) or _is_zero(choice) for choice in choices):
            return 1
    return _not_linear(name)


def _not_linear(name: str) -> int:
    raise NotByRows(f"{name}, which is not linear in the gradient")


def _is_zero(value: Any) -> bool:
    """Return True for the number 0 and for a node that makes a tensor filled with 0."""
    if not isinstance(value, fx.Node):
        return bool(value == 0)
    position = {"full": 1, "scalar_tensor": 0, "full_like": 1}.get(name_of(value))
    return position is not None and bool(value.args[position] == 0)
