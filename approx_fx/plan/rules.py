"""Rules: which values may be recomputed in the backward, and which backward ops may read an approximation.

Recomputing from a dequantized anchor is allowed where the op is cheap and continuous: a small error in gives a small
error out. It is not allowed for reductions, convolutions, matrix products, attention and random numbers, which are
expensive, nor for decisions (comparisons, rounding, sign, indices), because a decision taken on approximate values is a
wrong mask. The table of ops, `joint.op_table`, holds this for each op; the rules here follow from it.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx
from torch.utils._pytree import tree_leaves

from ..joint.facts import Facts
from ..joint.op_table import name_of, traits
from ..joint.op_traits import ALL

# An argument with at least this lower bound is far from a pole at 0. (log1p has its pole at -1: 1 is added first.)
SAFE_DISTANCE = 1.0


def reads_at_pole(node: fx.Node, value: fx.Node, facts: Facts) -> bool:
    """Whether the node may read `value` near a pole, where a small error is unbounded in the result.

    Positive integer powers have no pole.
    """
    poles = traits(node).poles
    if name_of(node) == "pow":
        exponent = node.args[1]
        if isinstance(exponent, (int, float)) and exponent >= 1 and exponent == int(exponent):
            return False
    offset = 1.0 if name_of(node) == "log1p" else 0.0
    may_be_near = facts.at_least(value) + offset < SAFE_DISTANCE
    return may_be_near and any(index in poles and arg is value for index, arg in enumerate(node.args))


def recomputable(node: fx.Node) -> bool:
    """Whether the table allows to recompute the node in the backward from approximate values."""
    return bool(traits(node).recompute)


def recomputable_from_exact(node: fx.Node) -> bool:
    """Whether the table allows to recompute the node in the backward from exact values."""
    return recomputable(node) or traits(node).recompute_from_exact


def tolerates(reader: fx.Node, value: fx.Node, facts: Facts) -> bool:
    """Whether a backward node may read an approximation of `value`."""
    tolerant = traits(reader).tolerant
    if tolerant is not ALL and not set(_argument_keys(reader, value)) <= set(tolerant):
        return False
    return not reads_at_pole(reader, value, facts)


def _argument_keys(reader: fx.Node, value: fx.Node) -> Iterator[object]:
    """The positions and names of the node's arguments that are the value or a list with it."""
    for key, arg in (*enumerate(reader.args), *reader.kwargs.items()):
        if any(leaf is value for leaf in tree_leaves(arg)):
            yield key
