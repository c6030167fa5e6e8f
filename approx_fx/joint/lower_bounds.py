"""Lower bounds of values, by the ops they are made of: what tells a safe denominator from a singular one.

exp, sigmoid, |x|, x * x, ... >= 0      a + b >= low(a) + low(b)      so 1 + exp(-x) >= 1: x / (1 + exp(-x)) is smooth
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from .fake_values import tensor
from .ops import CASTS, VIEWS, name_of

UNKNOWN = -float("inf")
DEPTH = 12  # nodes looked through, one behind the other

Bound = Callable[[fx.Node, Callable[[Any], float]], float]


def _power(node: fx.Node, low: Callable[[Any], float]) -> float:
    exponent = node.args[1]
    if isinstance(exponent, (int, float)) and exponent == int(exponent) and int(exponent) % 2 == 0 and exponent > 0:
        return 0.0
    return 0.0 if low(node.args[0]) >= 0 else UNKNOWN


def _product(node: fx.Node, low: Callable[[Any], float]) -> float:
    a, b = node.args[:2]
    if a is b:
        return 0.0
    return low(a) * low(b) if low(a) >= 0 and low(b) >= 0 else UNKNOWN


def _clamp(node: fx.Node, low: Callable[[Any], float]) -> float:
    least = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
    return max(low(node.args[0]), float(least) if isinstance(least, (int, float)) else UNKNOWN)


def _positive(node: fx.Node, low: Callable[[Any], float]) -> float:
    """0 where the argument is known to be 0 or more."""
    return 0.0 if low(node.args[0]) >= 0 else UNKNOWN


# op -> the least value of its result, given the least values of its arguments
BOUNDS: dict[str, Bound] = {
    **dict.fromkeys(["exp", "exp2", "sigmoid", "abs", "square", "relu", "softplus", "hardsigmoid"], lambda n, low: 0.0),
    **dict.fromkeys(["_softmax", "var", "inductor_random"], lambda n, low: 0.0),
    **dict.fromkeys(["sum", "mean", "sqrt", "log1p", "cumsum"], _positive),
    **dict.fromkeys(["amax", "amin", "maximum"], lambda n, low: low(n.args[0])),
    **dict.fromkeys(VIEWS | CASTS, lambda n, low: low(n.args[0])),
    "add": lambda n, low: low(n.args[0]) + low(n.args[1]),
    "mul": _product,
    "div": lambda n, low: 0.0 if low(n.args[0]) >= 0 and low(n.args[1]) >= 0 else UNKNOWN,
    "pow": _power,
    "where": lambda n, low: min(low(n.args[1]), low(n.args[2])),
    "full": lambda n, low: low(n.args[1]),
    **dict.fromkeys(["clamp", "clamp_min", "hardtanh"], _clamp),
}


def at_least(value: Any, depth: int = DEPTH) -> float:
    """A number that no element of `value` is below: a node's, or a constant itself; -inf where nothing is known."""
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, fx.Node) or depth == 0:
        return UNKNOWN
    if isinstance(value.args[0] if value.args else None, (list, tuple)) or (
        tensor(value) is None and name_of(value) != "getitem"
    ):
        return UNKNOWN
    rule = BOUNDS.get(name_of(value))
    return UNKNOWN if rule is None else rule(value, lambda item: at_least(item, depth - 1))
