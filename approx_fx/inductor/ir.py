"""torch._inductor.ir: questions about a value of Inductor's intermediate representation."""

from __future__ import annotations

from typing import Any
from unittest import mock


def strides_of(x: Any) -> list[int] | None:
    """How far apart in memory neighbours along each dimension of Inductor's value x lie; None if it reads no buffer."""
    from torch._inductor.dependencies import MemoryDep, extract_read_writes
    from torch._inductor.ir import FlexibleLayout

    sizes = x.get_size()
    with mock.patch.object(FlexibleLayout, "allow_indexing", True):  # as Inductor itself asks such questions
        accesses = extract_read_writes(x.make_loader(), sizes)
    variables: list[Any] = list(accesses.range_vars or ())  # of the dimensions that are longer than 1
    indices = [read.index for read in accesses.reads if isinstance(read, MemoryDep)]
    whole = [index for index in indices if {*variables} <= index.free_symbols]
    if not whole:
        return None
    start = dict.fromkeys(variables, 0)
    index = whole[0].expand(identity=True)  # of a cat, torch 2.11 wraps variables
    steps = [index.subs({**start, v: 1}) - index.subs(start) for v in variables]
    if not all(step.is_number for step in steps):
        return None
    numbers = iter(map(int, steps))
    return [next(numbers) if size != 1 else 0 for size in sizes]


def full_size_reads(loops: Any) -> int:
    """How many buffers as long as these loops' result, and at least as wide, they read."""
    from torch._inductor.virtualized import V

    buffers = [V.graph.try_get_buffer(name) for name in loops.inner_fn_opcount().read_buffers]
    return sum(
        buffer is not None
        and buffer.get_numel() == loops.get_numel()
        and buffer.get_dtype().itemsize >= loops.get_dtype().itemsize
        for buffer in buffers
    )
