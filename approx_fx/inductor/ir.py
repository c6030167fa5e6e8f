"""Queries about values of Inductor's intermediate representation: their strides, and the buffers that they read."""

from __future__ import annotations

from typing import Any
from unittest import mock


def strides_of(x: Any) -> list[int] | None:
    """Strides, 0 along lengths of 1, of the first buffer that Inductor's value x reads in full size, or None."""
    from torch._inductor.dependencies import MemoryDep, extract_read_writes
    from torch._inductor.ir import FlexibleLayout, Pointwise
    from torch._inductor.virtualized import V

    sizes = x.get_size()
    with mock.patch.object(FlexibleLayout, "allow_indexing", True):  # as Inductor itself does for such a query
        accesses = extract_read_writes(x.make_loader(), sizes)
    variables: list[Any] = list(accesses.range_vars or ())  # one for each dimension that is longer than 1
    reads = [read for read in accesses.reads if isinstance(read, MemoryDep)]
    full_size = [read for read in reads if {*variables} <= read.index.free_symbols]
    if not full_size:
        return None
    buffer: Any = V.graph.try_get_buffer(full_size[0].name)
    loops = getattr(buffer, "data", None)
    if isinstance(loops, Pointwise) and isinstance(buffer.layout, FlexibleLayout) and [*loops.ranges] == [*sizes]:
        return strides_of(loops)  # not decided yet: it will be laid out as what it is computed from
    start = dict.fromkeys(variables, 0)
    index = full_size[0].index.expand(identity=True)  # in a cat's index, torch 2.11 wraps variables
    differences = [index.subs({**start, v: 1}) - index.subs(start) for v in variables]
    if not all(difference.is_number for difference in differences):
        return None
    strides = iter(map(int, differences))
    return [next(strides) if size != 1 else 0 for size in sizes]


def full_size_reads(loops: Any) -> int:
    """The number of buffers that these loops read which have as many elements as their result, and no smaller ones."""
    from torch._inductor.virtualized import V

    buffers = [V.graph.try_get_buffer(name) for name in loops.inner_fn_opcount().read_buffers]
    return sum(
        buffer is not None
        and buffer.get_numel() == loops.get_numel()
        and buffer.get_dtype().itemsize >= loops.get_dtype().itemsize
        for buffer in buffers
    )
