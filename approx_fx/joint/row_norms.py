"""Finds layer, RMS, group and instance norms in the joint graph: normalisations over rows of a value.

layer, group    n = (x - mean) rstd         var_mean, add, rsqrt, sub, mul
RMS             n = x rstd                  pow or mul, mean, add, rsqrt, mul
group           a x + b, with vectors a and b computed from the statistics: n itself is not in the graph
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

from torch import fx

from .fake_values import is_float, numel, shape, tensor
from .graph import JointGraph
from .op_table import ELEMENT_PRESERVING, VIEWS, name_of, skip_ops

# Ops whose result has the same elements in the same order.
SAME_ELEMENTS = frozenset(ELEMENT_PRESERVING | {"view", "reshape", "_unsafe_view"})


@dataclass(frozen=True)
class RowNorm:
    """A normalisation over rows of x. mean (None for an RMS norm) and rstd broadcast against x and have its ndim."""

    x: fx.Node
    mean: fx.Node | None
    rstd: fx.Node


@dataclass(frozen=True)
class RowNorms:
    """The norms over rows of a graph.

    by_input: value -> the norm that reads it, as it is, cast or reshaped. by_normalized: (x - mean) rstd -> its norm.
    """

    by_input: dict[fx.Node, RowNorm]
    by_normalized: dict[fx.Node, RowNorm]


def find_row_norms(joint: JointGraph) -> RowNorms:
    """Find every normalisation over rows outside the backward, without its affine part."""
    by_input: dict[fx.Node, RowNorm] = {}
    by_normalized: dict[fx.Node, RowNorm] = {}
    for node in joint.order:
        if node in joint.backward or name_of(node) != "rsqrt":
            continue
        norm = _norm_of(node)
        if norm is None:
            continue
        for value in _same_values(norm.x):
            by_input.setdefault(value, norm)
        for value in norm.x.users:
            if value not in joint.backward and _is_centred(value, norm):
                by_input.setdefault(value, RowNorm(value, None, norm.rstd))
        for user in node.users:
            if name_of(user) == "mul" and user not in joint.backward and _is_normalized(user, norm):
                by_normalized[user] = norm
    return RowNorms(by_input, by_normalized)


def _norm_of(rstd: fx.Node) -> RowNorm | None:
    """The norm whose 1/sigma is this rsqrt(statistic(x) + eps); None if it belongs to no norm over rows."""
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
    """x, if the node is x ** 2 or x * x; else None."""
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node):
        return None
    is_square = (name_of(node) == "pow" and node.args[1] == 2) or (name_of(node) == "mul" and node.args[1] is first)
    return first if is_square else None


def _is_by_rows(x: fx.Node, rstd: fx.Node) -> bool:
    """Whether the statistics broadcast against x, each number for at least 16 elements."""
    value, statistic = tensor(x), tensor(rstd)
    if value is None or statistic is None or not is_float(x) or value.ndim != statistic.ndim:
        return False
    broadcasts = all(s in (v, 1) for s, v in zip(shape(statistic) or (), shape(value) or (), strict=True))
    return broadcasts and numel(value) >= 16 * numel(statistic)


def _same_values(x: fx.Node) -> list[fx.Node]:
    """x and all values that it is a reshape or a cast of."""
    values, count = [x], numel(tensor(x))  # type: ignore[arg-type]
    while name_of(x) in SAME_ELEMENTS and x.args and isinstance(x.args[0], fx.Node):
        x = x.args[0]
        fake = tensor(x)
        if fake is None or numel(fake) != count:
            break
        values.append(x)
    return values


def _is_centred(node: fx.Node, norm: RowNorm) -> bool:
    """Whether the node is x - mean, where the mean may be a view."""
    if norm.mean is None or name_of(node) != "sub" or node.args[0] is not norm.x:
        return False
    subtrahend = node.args[1]
    return isinstance(subtrahend, fx.Node) and (
        skip_ops(subtrahend, VIEWS) is norm.mean and shape(node) == shape(norm.x)
    )


def _is_normalized(node: fx.Node, norm: RowNorm) -> bool:
    """Whether the product is (x - mean) rstd, or x rstd where there is no mean."""
    other = next((arg for arg in node.args if arg is not norm.rstd), None)
    if not isinstance(other, fx.Node) or shape(other) != shape(norm.x):
        return False
    if norm.mean is None:
        return skip_ops(other, ELEMENT_PRESERVING) is skip_ops(norm.x, ELEMENT_PRESERVING)
    if name_of(other) != "sub" or other.args[1] is not norm.mean or not isinstance(other.args[0], fx.Node):
        return False
    return skip_ops(other.args[0], ELEMENT_PRESERVING) is skip_ops(norm.x, ELEMENT_PRESERVING)
