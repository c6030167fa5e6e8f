"""Lower bounds of results, op by op: what tells a safe denominator from a singular one.

exp, sigmoid, |x|, x * x, ... >= 0      a + b >= low(a) + low(b)      so 1 + exp(-x) >= 1: x / (1 + exp(-x)) is smooth

Each function gets a node and `low`, which gives the bound of an argument: a node's, or a constant itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

UNKNOWN = -float("inf")
Low = Callable[[Any], float]


def zero(node: fx.Node, low: Low) -> float:
    """Never negative."""
    return 0.0


def of_first(node: fx.Node, low: Low) -> float:
    """The first argument's elements, or a choice of them."""
    return low(node.args[0])


def of_second(node: fx.Node, low: Low) -> float:
    """A tensor full of the second argument."""
    return low(node.args[1])


def zero_if_positive(node: fx.Node, low: Low) -> float:
    """0 where the argument is known to be 0 or more."""
    return 0.0 if low(node.args[0]) >= 0 else UNKNOWN


def of_sum(node: fx.Node, low: Low) -> float:
    """a + b >= low(a) + low(b)."""
    return low(node.args[0]) + low(node.args[1])


def of_product(node: fx.Node, low: Low) -> float:
    """a * a >= 0, and a * b >= low(a) low(b) where neither is negative."""
    a, b = node.args[:2]
    if a is b:
        return 0.0
    return low(a) * low(b) if low(a) >= 0 and low(b) >= 0 else UNKNOWN


def of_quotient(node: fx.Node, low: Low) -> float:
    """0 where neither is negative."""
    return 0.0 if low(node.args[0]) >= 0 and low(node.args[1]) >= 0 else UNKNOWN


def of_power(node: fx.Node, low: Low) -> float:
    """Even powers are never negative, nor are powers of what is not."""
    exponent = node.args[1]
    if isinstance(exponent, (int, float)) and exponent == int(exponent) and int(exponent) % 2 == 0 and exponent > 0:
        return 0.0
    return zero_if_positive(node, low)


def of_clamp(node: fx.Node, low: Low) -> float:
    """The clamp's own bound, or the argument's if that is higher."""
    least = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
    return max(low(node.args[0]), float(least) if isinstance(least, (int, float)) else UNKNOWN)


def of_choice(node: fx.Node, low: Low) -> float:
    """Of where(mask, a, b): the lower one."""
    return min(low(node.args[1]), low(node.args[2]))
