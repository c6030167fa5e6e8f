"""Values whose masked places were filled with a number far from all others, as scores with -1e9 or -inf.

A code's step spans what a tile holds: from -1e9 to 5 in 4 bits it is 6e7, and nothing is left of what is near 5. What
is computed from the value where it is not masked, an entropy of it for one, would be wrong without bound.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from .fake_values import is_bool
from .ops import CASTS, VIEWS, name_of, skip_ops

# Activations stay well within it, fillings are chosen well beyond.
FILL_MAGNITUDE = 1e3
# Ops that leave far numbers far; exp, sigmoid or tanh of them is near again.
FILL_PRESERVING = frozenset(
    VIEWS | CASTS | set(["add", "sub", "rsub", "mul", "div", "neg", "cat", "where"]) | set(["maximum", "minimum"])
)
CLAMPS = frozenset(["clamp", "clamp_min", "clamp_max"])
DEPTH = 8


def is_masked_fill(value: fx.Node, depth: int = DEPTH) -> bool:
    """Whether the value is such a one, as far as that can be seen from the ops it is made of.

    A mask that is given to the model as numbers, 0 and -inf, cannot be seen.
    """
    name = name_of(value)
    clamped = name in CLAMPS and all(_is_fill_constant(bound) for bound in value.args[1:] if bound is not None)
    if (name not in FILL_PRESERVING and not clamped) or depth == 0:
        return False
    if name == "where" and any(map(_is_fill_constant, value.args[1:3])):
        return True
    if name == "mul" and any(map(_is_fill_constant, value.args[:2])) and any(map(_is_mask, value.all_input_nodes)):
        return True
    return any(is_masked_fill(source, depth - 1) for source in value.all_input_nodes)


def _is_fill_constant(item: Any) -> bool:
    """A constant of that size, as a number or a node that is full of it."""
    if isinstance(item, fx.Node):
        item = skip_ops(item, VIEWS | CASTS)
        full = {"full": item.args[1:2], "full_like": item.args[1:2], "scalar_tensor": item.args[:1]}
        item = next(iter(full.get(name_of(item), ())), None)
    return isinstance(item, (int, float)) and abs(item) >= FILL_MAGNITUDE


def _is_mask(item: fx.Node) -> bool:
    """A mask as numbers, or 1 less it: what comes from a bool, or from a placeholder, by a cast and a difference."""
    if name_of(item) in ("sub", "rsub"):
        item = item.all_input_nodes[-1]
    item = skip_ops(item, VIEWS | CASTS)
    return item.op == "placeholder" or is_bool(item)
