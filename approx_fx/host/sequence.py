"""torch._inductor: kernels run in the order that their last parts had, if that is estimated to take less memory.

Inductor places what it fused where the first part was, and pulls ahead what the other parts wait for. Where a decoding
is fused with a gradient of the block before, that block's gradients are then computed ahead of the convolutions'
weights' between, and what these read waits for them: a whole block's gradients.
"""

from __future__ import annotations

import contextlib
import heapq
import inspect
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock


def by_last_part(nodes: Sequence[Any]) -> list[Any]:
    """Inductor's kernels, each behind those that it waits for, else by the place of the last thing fused in it."""
    waiting = {node: len(node.mpi_node.pred_nodes) for node in nodes}
    place = {node: index for index, node in enumerate(nodes)}
    ready = [(node.max_order, place[node], node) for node in nodes if not waiting[node]]
    heapq.heapify(ready)
    order: list[Any] = []
    while ready:
        node = heapq.heappop(ready)[2]
        order.append(node)
        for follower in node.mpi_node.succ_nodes:
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(ready, (follower.max_order, place[follower], follower))
    return order


@contextlib.contextmanager
def last_parts_considered() -> Iterator[None]:
    """Inductor inside considers that order, among its own. For one compile at a time."""
    from torch._inductor import memory

    reorder: Any = memory.reorder_for_peak_memory
    methods = [*inspect.signature(reorder).parameters["methods"].default, by_last_part]

    def reordered(*args: Any) -> Any:
        return reorder(*args, methods)

    with mock.patch.object(memory, "reorder_for_peak_memory", reordered):
        yield
