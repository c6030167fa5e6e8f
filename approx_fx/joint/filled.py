"""Values whose masked places were filled with a number far from all others, as scores with -1e9 or -inf.

A code's step spans what a tile holds: from -1e9 to 5 in 4 bits it is 6e7, and nothing is left of what is near 5. What
is computed from the value where it is not masked, an entropy of it for one, would be wrong without bound.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from .ops import CASTS, VIEWS, name_of

# Activations stay well within it, fillings are chosen well beyond.
FAR = 1e3
# Ops that leave far numbers far; exp, sigmoid or tanh of them is near again.
CARRIERS = frozenset(VIEWS | CASTS | set(["add", "sub", "rsub", "mul", "div", "neg", "cat", "where"]))
DEPTH = 8


def is_filled(value: fx.Node, depth: int = DEPTH) -> bool:
    """Whether the value is such a one, as far as that can be seen from the ops it is made of."""
    name = name_of(value)
    if name not in CARRIERS or depth == 0:
        return False
    if name == "where" and any(_is_far(item) for item in value.args[1:3]):
        return True
    return any(is_filled(source, depth - 1) for source in value.all_input_nodes)


def _is_far(item: Any) -> bool:
    """A constant of that size, as a number or a node that is full of it."""
    if isinstance(item, fx.Node):
        item = {"full": item.args[1:2], "scalar_tensor": item.args[:1]}.get(name_of(item), ())
        item = item[0] if item else None
    return isinstance(item, (int, float)) and abs(item) >= FAR
