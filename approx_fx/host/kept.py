"""torch._inductor's C++: a sum of tensors that is read again is written once, not added up by each reader.

Inductor computes what few tensors enter anew in each kernel that reads it. A residual stream is read by the statistics
of the next normaliser, by the normaliser, and by the next sum: with a + b kept that is two reads, a write and two more
reads, and a and b are free at once; computed anew it is six, and soon nine, with the branch before it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch


def _whole_reads(loops: Any) -> int:
    """How many buffers as long as these loops' result, and as wide, they read; 0 where keeping it would round it."""
    from torch._inductor.virtualized import V

    count = 0
    if loops.get_dtype() not in (torch.float32, torch.float64):
        return count
    for name in loops.inner_fn_opcount().read_buffers:
        buffer = V.graph.try_get_buffer(name)
        if buffer is not None and buffer.get_numel() == loops.get_numel():
            count += buffer.get_dtype().itemsize >= loops.get_dtype().itemsize
    return count


@contextlib.contextmanager
def sums_kept() -> Iterator[None]:
    """Inductor inside keeps sums that are read again. For one compile at a time."""
    from torch._inductor.ir import Pointwise, StorageBox

    theirs = StorageBox.should_realize_on_reuse

    def keeps(self: Any, users: int, **how: Any) -> bool:
        data = self.data
        # From torch 2.13 on, graph_reuse=False asks about readers within one lowering alone.
        mine = how.get("graph_reuse", True) and users > 1 and isinstance(data, Pointwise)
        return bool(mine and str(data.get_device()) == "cpu" and _whole_reads(data) > 1) or theirs(self, users, **how)

    with mock.patch.object(StorageBox, "should_realize_on_reuse", keeps):
        yield
