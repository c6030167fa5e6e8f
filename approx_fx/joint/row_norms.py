"""Layer, RMS, group and instance norms found in the joint graph, whose statistics the forward computes anyway.

layer, group    n = (x - mean) rstd         var_mean, add, rsqrt, sub, mul
RMS             n = x rstd                  pow or mul, mean, add, rsqrt, mul
group           affine form a x + b, with rows a and b made from the statistics: n itself is never there
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

from torch import fx

from .fake_values import is_float, numel, shape, tensor
from .graph import JointGraph
from .op_table import ELEMENT_PRESERVING, VIEWS
from .ops import name_of, skip_ops

# The same elements in the same order.
SEEN_THROUGH = frozenset(ELEMENT_PRESERVING | {"view", "reshape", "_unsafe_view"})


@dataclass(frozen=True)
class RowNorm:
    """A normalisation over rows of x. mean: None for RMS. mean and rstd broadcast against x as it is reduced."""

    x: fx.Node
    mean: fx.Node | None
    rstd: fx.Node


@dataclass(frozen=True)
class RowNorms:
    """by_input: value -> the norm that it enters, as it is or reshaped. by_normalized: (x - mean) rstd -> its norm."""

    by_input: dict[fx.Node, RowNorm]
    by_normalized: dict[fx.Node, RowNorm]


def find_row_norms(joint: JointGraph) -> RowNorms:
    """Every normalisation over rows, by the values that enter it and by the values that leave it, before the affine."""
    by_input: dict[fx.Node, RowNorm] = {}
    by_normalized: dict[fx.Node, RowNorm] = {}
    for node in joint.order:
        if node in joint.backward or name_of(node) != "rsqrt":
            continue
        row = _row(node)
        if row is None:
            continue
        for value in _same_values(row.x):
            by_input.setdefault(value, row)
        for value in row.x.users:
            if value not in joint.backward and _is_centred(value, row):
                by_input.setdefault(value, RowNorm(value, None, row.rstd))
        for user in node.users:
            if name_of(user) == "mul" and user not in joint.backward and _is_normal(user, row):
                by_normalized[user] = row
    return RowNorms(by_input, by_normalized)


def _row(rstd: fx.Node) -> RowNorm | None:
    """x and its statistics, from rsqrt(statistic(x) + eps)."""
    shifted = rstd.args[0]
    if not isinstance(shifted, fx.Node) or name_of(shifted) != "add" or not isinstance(shifted.args[0], fx.Node):
        return None
    variance = skip_ops(shifted.args[0], ELEMENT_PRESERVING)
    if variance.target is operator.getitem and variance.args[1] == 0:
        stats = variance.args[0]
        if not isinstance(stats, fx.Node) or name_of(stats) != "var_mean" or not isinstance(stats.args[0], fx.Node):
            return None
        mean = next((user for user in stats.users if user.args[1:] == (1,)), None)
        return RowNorm(stats.args[0], mean, rstd) if mean is not None and _is_by_rows(stats.args[0], rstd) else None
    if name_of(variance) != "mean" or not isinstance(variance.args[0], fx.Node):
        return None
    x = _squared(skip_ops(variance.args[0], ELEMENT_PRESERVING))
    return RowNorm(x, None, rstd) if x is not None and _is_by_rows(x, rstd) else None


def _squared(node: fx.Node) -> fx.Node | None:
    """x, from x ** 2 or x * x."""
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node):
        return None
    is_square = (name_of(node) == "pow" and node.args[1] == 2) or (name_of(node) == "mul" and node.args[1] is first)
    return first if is_square else None


def _is_by_rows(x: fx.Node, rstd: fx.Node) -> bool:
    """Whether the statistics broadcast against x, each for 16 elements at least."""
    whole, own = tensor(x), tensor(rstd)
    if whole is None or own is None or not is_float(x) or whole.ndim != own.ndim:
        return False
    fits = all(s in (w, 1) for s, w in zip(shape(own) or (), shape(whole) or (), strict=True))
    return fits and numel(whole) >= 16 * numel(own)


def _same_values(x: fx.Node) -> list[fx.Node]:
    """x and what it is a view or a cast of, element for element."""
    found, count = [x], numel(tensor(x))  # type: ignore[arg-type]
    while name_of(x) in SEEN_THROUGH and x.args and isinstance(x.args[0], fx.Node):
        x = x.args[0]
        own = tensor(x)
        if own is None or numel(own) != count:
            break
        found.append(x)
    return found


def _is_centred(node: fx.Node, row: RowNorm) -> bool:
    """Whether the node is x - mean, the mean seen through views."""
    if row.mean is None or name_of(node) != "sub" or node.args[0] is not row.x or not isinstance(node.args[1], fx.Node):
        return False
    return skip_ops(node.args[1], VIEWS) is row.mean and shape(node) == shape(row.x)


def _is_normal(node: fx.Node, row: RowNorm) -> bool:
    """Whether the product is (x - mean) rstd, or x rstd where there is no mean."""
    other = next((arg for arg in node.args if arg is not row.rstd), None)
    if not isinstance(other, fx.Node) or shape(other) != shape(row.x):
        return False
    if row.mean is None:
        return skip_ops(other, ELEMENT_PRESERVING) is skip_ops(row.x, ELEMENT_PRESERVING)
    if name_of(other) != "sub" or other.args[1] is not row.mean or not isinstance(other.args[0], fx.Node):
        return False
    return skip_ops(other.args[0], ELEMENT_PRESERVING) is skip_ops(row.x, ELEMENT_PRESERVING)
