"""Rules for lower bounds of results, one per kind of op; they show which denominators cannot be near 0.

exp, sigmoid, |x|, x * x, ... >= 0      a + b >= low(a) + low(b)      so 1 + exp(-x) >= 1: x / (1 + exp(-x)) is smooth

Each function gets a node and `low`, which gives the lower bound of an argument, and returns the bound of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

UNKNOWN = -float("inf")
Low = Callable[[Any], float]


def zero(node: fx.Node, low: Low) -> float:
    """The result is never negative."""
    return 0.0


def of_first(node: fx.Node, low: Low) -> float:
    """The result consists of elements of the first argument, or is no lower than they are."""
    return low(node.args[0])


def of_second(node: fx.Node, low: Low) -> float:
    """The result is filled with the second argument."""
    return low(node.args[1])


def zero_if_positive(node: fx.Node, low: Low) -> float:
    """The result is not negative if the first argument is not negative."""
    return 0.0 if low(node.args[0]) >= 0 else UNKNOWN


def of_sum(node: fx.Node, low: Low) -> float:
    """a + b >= low(a) + low(b)."""
    return low(node.args[0]) + low(node.args[1])


def of_product(node: fx.Node, low: Low) -> float:
    """a * a >= 0, and a * b >= low(a) low(b) if neither is negative."""
    a, b = node.args[:2]
    if a is b:
        return 0.0
    return low(a) * low(b) if low(a) >= 0 and low(b) >= 0 else UNKNOWN


def of_quotient(node: fx.Node, low: Low) -> float:
    """a / b >= 0 if neither is negative."""
    return 0.0 if low(node.args[0]) >= 0 and low(node.args[1]) >= 0 else UNKNOWN


def of_power(node: fx.Node, low: Low) -> float:
    """Even powers are never negative, nor are powers of a base that is not negative."""
    exponent = node.args[1]
    if isinstance(exponent, (int, float)) and exponent == int(exponent) and int(exponent) % 2 == 0 and exponent > 0:
        return 0.0
    return zero_if_positive(node, low)


def of_clamp(node: fx.Node, low: Low) -> float:
    """The clamp's lower limit, or the argument's bound if that is higher."""
    limit = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
    return max(low(node.args[0]), float(limit) if isinstance(limit, (int, float)) else UNKNOWN)


def of_choice(node: fx.Node, low: Low) -> float:
    """where(mask, a, b) >= min(low(a), low(b))."""
    return min(low(node.args[1]), low(node.args[2]))
