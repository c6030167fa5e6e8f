"""torch._inductor's C++: a gradient's sums over all but the innermost dimension, in two stages.

Where channels lie innermost in memory, as convolutions want them, Inductor's loop for a sum over the others takes one
vector of channels through the whole tensor, then the next: every line of memory is fetched again for each vector in it.
Here a row of positions, which fits the first cache, is summed first, for all channels, and then the rows' sums are.

Only what is computed from a gradient is summed in this other order, and only where something is decoded: the forward,
the masks, and what trains exactly stay as torch.compile's, bit for bit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import fx
from torch._ops import OpOverload

from .split import is_tangent

aten, prims = torch.ops.aten, torch.ops.prims

# Positions of a row: with fewer the second stage has much to do, with ENOUGH it has little, with MOST a row is long.
FEWEST, ENOUGH, MOST = 4, 16, 256
# Values of a row that the first cache holds, and a sum over so few values that it takes no time.
NEAR, LEAST = 2**13, 2**18


@dataclass(frozen=True)
class Plan:
    """sizes: of a tensor, one dimension possibly split in two; first: those to sum over first; rest: those then."""

    sizes: tuple[int, ...]
    first: tuple[int, ...]
    rest: tuple[int, ...]


def plan(sizes: Sequence[int], strides: Sequence[int], reduced: Sequence[int]) -> Plan | None:
    """How to sum in two stages; None where one does, for values lie along a dimension summed over, or are few.

    sizes, strides: of a tensor, by dimension; reduced: the dimensions summed over, none negative.
    """
    inwards = sorted((dim for dim in reduced if sizes[dim] > 1), key=lambda dim: strides[dim])
    if math.prod(sizes) < LEAST or not inwards or strides[inwards[0]] <= 1:
        return None
    kept = [sizes[dim] for dim in range(len(sizes)) if dim not in reduced and strides[dim] < strides[inwards[0]]]
    room = max(NEAR // math.prod(kept), 2 * FEWEST)
    row, near, last = 1, 0, inwards[-1]  # the positions of the `near` innermost dimensions make a row
    while near < len(inwards) - 1 and row < ENOUGH and row * sizes[inwards[near]] <= room:
        row, near = row * sizes[inwards[near]], near + 1
    if row >= FEWEST:
        return _plan(sizes, reduced, inwards[:near])
    if part := next((k for k in range(min(room, 2 * ENOUGH), FEWEST, -1) if sizes[inwards[0]] % k == 0), 0):
        return _split(sizes, reduced, inwards[0], part)
    if len(inwards) > 1 and FEWEST <= sizes[last] <= 4 * ENOUGH:
        return _plan(sizes, reduced, [last])
    return _plan(sizes, reduced, inwards[:1]) if len(inwards) > 1 and sizes[inwards[0]] <= MOST else None


def _plan(sizes: Sequence[int], reduced: Sequence[int], first: Sequence[int]) -> Plan:
    return Plan(tuple(sizes), tuple(first), tuple(dim for dim in reduced if dim not in first))


def _split(sizes: Sequence[int], reduced: Sequence[int], place: int, part: int) -> Plan:
    """The dimension `place` as two, the second of length `part`, to be summed over first."""
    sizes = (*sizes[:place], sizes[place] // part, part, *sizes[place + 1 :])
    return Plan(sizes, (place + 1,), tuple(dim + (dim > place) for dim in reduced))


def strides_of(x: Any) -> list[int] | None:
    """How far apart in memory neighbours along each dimension of Inductor's value x lie; None if it reads no buffer."""
    from torch._inductor.dependencies import MemoryDep, extract_read_writes
    from torch._inductor.ir import FlexibleLayout

    sizes = x.get_size()
    with mock.patch.object(FlexibleLayout, "allow_indexing", True):
        found = extract_read_writes(x.make_loader(), sizes)
    variables: list[Any] = list(found.range_vars or ())  # of the dimensions that are longer than 1
    whole = [
        read.index for read in found.reads if isinstance(read, MemoryDep) and {*variables} <= read.index.free_symbols
    ]
    if not whole:
        return None
    start = dict.fromkeys(variables, 0)
    index = whole[0].expand(identity=True)  # of a cat, torch 2.11 wraps variables
    found_steps = [index.subs({**start, v: 1}) - index.subs(start) for v in variables]
    if not all(step.is_number for step in found_steps):
        return None
    steps = iter(map(int, found_steps))
    return [next(steps) if size != 1 else 0 for size in sizes]


def _plan_of(x: Any, axis: Sequence[int] | None) -> Plan | None:
    """How to sum Inductor's value x over `axis` in two stages; None where one does, or a size is a symbol."""
    sizes = x.get_size()
    if str(x.get_device()) != "cpu" or not x.get_dtype().is_floating_point or not axis:
        return None
    if not all(getattr(size, "is_number", True) for size in sizes) or math.prod(map(int, sizes)) < LEAST:
        return None
    strides = strides_of(x)
    return plan(list(map(int, sizes)), strides, sorted(dim % len(sizes) for dim in axis)) if strides else None


def _call(op: OpOverload, *args: Any) -> Any:
    from torch._inductor.lowering import lowerings

    return lowerings[op](*args)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return _call(prims.convert_element_type.default, value, dtype)


def _sum(x: Any, stages: Plan, dtype: torch.dtype) -> Any:
    """The sum of Inductor's value x, as `dtype`; the rows' sums are kept in float32 at least."""
    kept = [dim for dim in range(len(stages.sizes)) if dim not in (*stages.first, *stages.rest)]
    rows = _call(aten.reshape.default, _cast(x, dtype), list(stages.sizes))
    # What the first stage gives thus lies in memory as the second wants it.
    rows = _call(aten.permute.default, rows, [*stages.rest, *kept, *stages.first])
    rows = _cast(rows, torch.promote_types(dtype, torch.float32))
    sums = _call(prims.sum.default, rows, list(range(len(stages.sizes) - len(stages.first), len(stages.sizes))))
    return _cast(_call(prims.sum.default, sums, list(range(len(stages.rest)))), dtype)


def gradients(graph: fx.Graph) -> frozenset[fx.Node]:
    """What is computed from the gradients that a backward is given."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if is_tangent(node) or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return frozenset(found)


@contextlib.contextmanager
def staged(half: fx.GraphModule, ours: Collection[Any]) -> Iterator[None]:
    """Inductor inside sums gradients in two stages where that is faster, if `half` calls one of `ours`.

    For one compile at a time.
    """
    from torch._inductor.lowering import lowerings
    from torch._inductor.virtualized import V

    if not any(node.target in ours for node in half.graph.nodes):
        yield
        return
    table: dict[Any, Any] = lowerings
    theirs, known = table[aten.sum.dim_IntList], dict[fx.Graph, frozenset[fx.Node]]()

    def sum_of(x: Any, axis: Any = None, keepdims: bool = False, *, dtype: Any = None) -> Any:
        node = V.graph.current_node
        if node.graph not in known:
            known[node.graph] = gradients(node.graph)
        stages = _plan_of(x, axis) if node in known[node.graph] else None
        if not stages:
            return theirs(x, axis, keepdims, dtype=dtype)
        total, sizes = _sum(x, stages, dtype or x.get_dtype()), x.get_size()
        summed = {dim % len(sizes) for dim in axis}
        shape = [1 if dim in summed else size for dim, size in enumerate(sizes)]
        return _call(aten.reshape.default, total, shape) if keepdims else total

    table[aten.sum.dim_IntList] = sum_of
    try:
        yield
    finally:
        table[aten.sum.dim_IntList] = theirs
