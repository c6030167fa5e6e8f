"""The fields of a row in the table of ops, `op_table`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

# (node, function from an argument to its lower bound) -> lower bound of the node's result
LowerBound = Callable[[fx.Node, Callable[[Any], float]], float]
# As a value of `OpTraits.tolerant`: all arguments.
ALL = None


@dataclass(frozen=True)
class OpTraits:
    """What is known of one op. The table's key is the name of the op's aten overload packet.

    For an op whose result the backward needs:

    - recompute: the kind of op, in one word, if it may be recomputed from approximate arguments; '' if it may not. Such
      an op must be cheap and continuous: a small error in gives a small error out.
    - recompute_from_exact: it may be recomputed, but only from exact arguments, because its result is a decision.
    - seeded: its random numbers are a function of a saved seed, so that Inductor can recompute them.
    - needs_mask: it may be recomputed only with the exact mask of its kink, which is kept or recomputed exactly.
    - steep: a small error in a large argument is a large one in the result: it is recomputed from exact arguments only,
      and a backward that needs the result reads its own code.
    - poles: positions of arguments in which it has a pole at 0: near 0 a small error does not stay small.
    - decides: its floating point result is a decision on its argument (a sign, a rounding), so it is kept exactly.

    For a backward op that reads a saved value:

    - tolerant: positions of the arguments that may be approximate, in which the op is linear or smooth: ALL, some, or
      () for none.

    Facts about results, see `facts`:

    - lower_bound: the rule for a number that no element of the result is below.
    - output_range: (low, high), between which every element of the result lies.
    - statistic: 'always' if the result is a statistic; 'sum' if it is one where it reduces many elements; 'map' if it
      is one where all arguments are; '' if it is none.
    - keeps_fill: if an argument is a masked fill, so is the result.
    - image: the result is an image [N, C, ...].

    For the compiler and its cost model:

    - view: the result is a view of 'whole' the argument, or of a 'part' of it; '' if it is none.
    - may_copy: a view that copies where strides require it.
    - cast: the same elements in another dtype or memory.
    - fuses: it is computed in the loop of its reader.
    - by_parts: it may be computed for each slice of its first dimension by itself, see `packed_stores`.
    - compute_bound: computing it takes longer than reading and writing its tensors.
    """

    recompute: str = ""
    recompute_from_exact: bool = False
    seeded: bool = False
    needs_mask: bool = False
    steep: bool = False
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
