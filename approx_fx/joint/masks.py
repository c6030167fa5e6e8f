"""Masks: comparisons of an activation with a constant, each traced to the value whose side of a threshold it tells.

    mask = (f(v) op c),  f monotone  =>  mask says on which side of a threshold t the value v lies

relu(v) <= c  is  v <= c  for c >= 0;  clamp(v, a, b) <= c  is  v <= c  for a <= c < b;  casts do not change a side.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from .fake_values import is_bool, is_float, shape
from .graph import JointGraph
from .op_table import COMPARISONS, ELEMENT_PRESERVING
from .ops import name_of, skip_ops


@dataclass(frozen=True)
class Mask:
    """node holds, element for element, `value op threshold`, with op one of gt, ge (positive) and le, lt."""

    node: fx.Node
    value: fx.Node
    threshold: float
    op: str

    @property
    def positive(self) -> bool:
        """Whether the mask is True above the threshold, not below."""
        return self.op in ("gt", "ge")


def find_masks(joint: JointGraph) -> list[Mask]:
    """All comparisons with a constant outside the backward, in graph order, at every value they tell the side of."""
    found = []
    for node in joint.module.graph.nodes:
        if node not in joint.backward and name_of(node) in COMPARISONS - {"eq", "ne"} and is_bool(node):
            found.extend(_trace(node))
    return found


def _trace(node: fx.Node) -> list[Mask]:
    value, constant = node.args[:2]
    if not isinstance(value, fx.Node) or not isinstance(constant, (int, float)) or not is_float(value):
        return []
    name, threshold = name_of(node), float(constant)
    found: list[Mask] = []
    while True:
        value = skip_ops(value, ELEMENT_PRESERVING)
        if shape(value) != shape(node):
            return found
        found.append(Mask(node, value, threshold, name))
        unchanged = name_of(value) == "relu" and threshold == 0 and name in ("le", "gt")
        if not (unchanged or (name_of(value) in ("clamp", "hardtanh") and _inside(value, threshold, name))):
            return found
        value = value.args[0]  # type: ignore[assignment]
        if not isinstance(value, fx.Node):
            return found


def _inside(node: fx.Node, threshold: float, name: str) -> bool:
    """Whether comparing after the clamp tells the same as comparing before it."""
    low, high = (*node.args[1:], None, None)[:2]
    low, high = -float("inf") if low is None else low, float("inf") if high is None else high
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return False
    return low <= threshold < high if name in ("le", "gt") else low < threshold <= high
