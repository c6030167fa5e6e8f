"""Finds masks: comparisons of an activation with a constant, traced back to the values whose codes can carry them.

    mask = (f(v) op c),  f monotone  =>  mask tells on which side of a threshold t the value v lies

relu(v) <= c  is  v <= c  for c >= 0;  clamp(v, a, b) <= c  is  v <= c  for a <= c < b;  casts do not change a side.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from .fake_values import is_bool, is_float, shape
from .graph import JointGraph
from .op_table import COMPARISONS, ELEMENT_PRESERVING, name_of, skip_ops


@dataclass(frozen=True)
class Mask:
    """The bool value of `node` equals `value op threshold`, element for element. op: 'gt', 'ge', 'le' or 'lt'."""

    node: fx.Node
    value: fx.Node
    threshold: float
    op: str

    @property
    def positive(self) -> bool:
        """Whether the mask is True above the threshold, as for 'gt' and 'ge'."""
        return self.op in ("gt", "ge")


def find_masks(joint: JointGraph) -> list[Mask]:
    """Find all comparisons with a constant outside the backward, in graph order.

    A comparison gives one mask for each value that it decides on: of relu(v) <= 0, one for relu(v) and one for v.
    """
    masks = []
    for node in joint.module.graph.nodes:
        if node not in joint.backward and name_of(node) in COMPARISONS - {"eq", "ne"} and is_bool(node):
            masks.extend(_trace(node))
    return masks


def _trace(node: fx.Node) -> list[Mask]:
    """The masks that one comparison gives, for the value it compares first, then for those that value comes from."""
    value, constant = node.args[:2]
    if not isinstance(value, fx.Node) or not isinstance(constant, (int, float)) or not is_float(value):
        return []
    name, threshold = name_of(node), float(constant)
    masks: list[Mask] = []
    while True:
        value = skip_ops(value, ELEMENT_PRESERVING)
        if shape(value) != shape(node):
            return masks
        masks.append(Mask(node, value, threshold, name))
        unchanged = name_of(value) == "relu" and threshold == 0 and name in ("le", "gt")
        if not (unchanged or (name_of(value) in ("clamp", "hardtanh") and _inside(value, threshold, name))):
            return masks
        value = value.args[0]  # type: ignore[assignment]
        if not isinstance(value, fx.Node):
            return masks


def _inside(node: fx.Node, threshold: float, name: str) -> bool:
    """Whether the threshold lies in a clamp's range, so that comparing its input gives the same mask."""
    low, high = (*node.args[1:], None, None)[:2]
    low, high = -float("inf") if low is None else low, float("inf") if high is None else high
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return False
    return low <= threshold < high if name in ("le", "gt") else low < threshold <= high
