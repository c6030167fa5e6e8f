"""What can be known about an op: the fields that `op_table` fills in, one row an op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

# (node, lower bound of an argument) -> lower bound of the node's result
LowerBound = Callable[[fx.Node, Callable[[Any], float]], float]
# Every argument.
ALL = None


@dataclass(frozen=True)
class OpTraits:
    """One op, by the name of its aten overload packet.

    As a value that the backward needs:

    - recompute: why it may be computed again from approximate arguments, in one word, or '' if it may not. It must be
      cheap and continuous: a small error in gives a small error out.
    - recompute_from_exact: it may be computed again, but from exact arguments alone, because it takes a decision.
    - seeded: random numbers that Inductor draws from a saved seed by counting: the same seed gives them again.
    - needs_mask: only together with the exact mask of its kink, which is kept or recomputed exactly.
    - poles: positions of arguments at which a small error does not stay small near 0.
    - decides: its floating point result is a decision taken on its argument, so it is kept exactly.

    As a node of the backward that reads a value:

    - tolerant: positions of the arguments that may be approximate: ALL, some, or () for none. It is linear or smooth
      in those.

    Facts that are carried from arguments to results:

    - lower_bound: a number that no element of the result is below.
    - output_range: (low, high) between which every element of the result lies.
    - statistic: 'always', where the result is one number for many elements, which others are normalised with; 'sum',
      where it is if it stands for many elements; 'map', where it is if all arguments are; or ''.
    - keeps_fill: numbers far from all others, which fill masked places, stay far in the result.
    - image: the result [N, C, ...] has channels.

    For the compiler and its cost model:

    - view: the same elements seen through another shape: 'whole', 'part' of them, or ''.
    - may_copy: a view that copies where strides demand it.
    - cast: the same elements in another dtype or memory.
    - fuses: computed element by element, in the loop of what reads it.
    - by_parts: may be computed for each part of its first dimension by itself, see `packed_stores`.
    - compute_bound: takes longer to compute than to read and write.
    """

    recompute: str = ""
    recompute_from_exact: bool = False
    seeded: bool = False
    needs_mask: bool = False
    poles: tuple[int, ...] = ()
    decides: bool = False
    tolerant: tuple[int | str, ...] | None = ()
    lower_bound: LowerBound | None = None
    output_range: tuple[float, float] | None = None
    statistic: str = ""
    keeps_fill: bool = False
    image: bool = False
    view: str = ""
    may_copy: bool = False
    cast: bool = False
    fuses: bool = False
    by_parts: bool = False
    compute_bound: bool = False
