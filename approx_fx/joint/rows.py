"""Rows: layer, RMS, group and instance norms found in the joint graph, whose statistics the forward computes anyway.

layer, group    n = (x - mean) rstd         var_mean, add, rsqrt, sub, mul
RMS             n = x rstd                  pow or mul, mean, add, rsqrt, mul
group           affine form a x + b, with rows a and b made from the statistics: n itself is never there
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

from torch import fx

from .graph import Joint
from .ops import SAME_PLACE, VIEWS, name_of, through
from .values import is_float, numel, shape, tensor

# The same elements in the same order.
SEEN_THROUGH = frozenset(SAME_PLACE | {"view", "reshape", "_unsafe_view"})


@dataclass(frozen=True)
class Row:
    """A normalisation over rows of x. mean: None for RMS. mean and rstd broadcast against x as it is reduced."""

    x: fx.Node
    mean: fx.Node | None
    rstd: fx.Node


@dataclass(frozen=True)
class Rows:
    """entered: value -> the normalisation that it enters, as it is or reshaped. normal: (x - mean) rstd -> its Row."""

    entered: dict[fx.Node, Row]
    normal: dict[fx.Node, Row]


def find_rows(joint: Joint) -> Rows:
    """Every normalisation over rows, by the values that enter it and by the values that leave it, before the affine."""
    entered: dict[fx.Node, Row] = {}
    normal: dict[fx.Node, Row] = {}
    for node in joint.order:
        if node in joint.backward or name_of(node) != "rsqrt":
            continue
        row = _row(node)
        if row is None:
            continue
        for value in _same_values(row.x):
            entered.setdefault(value, row)
        for value in row.x.users:
            if value not in joint.backward and _is_centred(value, row):
                entered.setdefault(value, Row(value, None, row.rstd))
        for user in node.users:
            if name_of(user) == "mul" and user not in joint.backward and _is_normal(user, row):
                normal[user] = row
    return Rows(entered, normal)


def _row(rstd: fx.Node) -> Row | None:
    """x and its statistics, from rsqrt(statistic(x) + eps)."""
    shifted = rstd.args[0]
    if not isinstance(shifted, fx.Node) or name_of(shifted) != "add" or not isinstance(shifted.args[0], fx.Node):
        return None
    variance = through(shifted.args[0], SAME_PLACE)
    if variance.target is operator.getitem and variance.args[1] == 0:
        stats = variance.args[0]
        if not isinstance(stats, fx.Node) or name_of(stats) != "var_mean" or not isinstance(stats.args[0], fx.Node):
            return None
        mean = next((user for user in stats.users if user.args[1:] == (1,)), None)
        return Row(stats.args[0], mean, rstd) if mean is not None and _is_by_rows(stats.args[0], rstd) else None
    if name_of(variance) != "mean" or not isinstance(variance.args[0], fx.Node):
        return None
    x = _squared(through(variance.args[0], SAME_PLACE))
    return Row(x, None, rstd) if x is not None and _is_by_rows(x, rstd) else None


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


def _is_centred(node: fx.Node, row: Row) -> bool:
    """Whether the node is x - mean, the mean seen through views."""
    if row.mean is None or name_of(node) != "sub" or node.args[0] is not row.x or not isinstance(node.args[1], fx.Node):
        return False
    return through(node.args[1], VIEWS) is row.mean and shape(node) == shape(row.x)


def _is_normal(node: fx.Node, row: Row) -> bool:
    """Whether the product is (x - mean) rstd, or x rstd where there is no mean."""
    other = next((arg for arg in node.args if arg is not row.rstd), None)
    if not isinstance(other, fx.Node) or shape(other) != shape(row.x):
        return False
    if row.mean is None:
        return through(other, SAME_PLACE) is through(row.x, SAME_PLACE)
    if name_of(other) != "sub" or other.args[1] is not row.mean or not isinstance(other.args[0], fx.Node):
        return False
    return through(other.args[0], SAME_PLACE) is through(row.x, SAME_PLACE)
