"""Scheduler pass: kernels run in the order of the graph where that lowers the peak.

Inductor orders fused kernels by a depth-first walk from the first: a kernel that fuses an early op with a late one
comes at the early one's place, behind everything that the late one needs, and what lies between them waits. In T5 the
decoded output of the encoder is read by each layer of the decoder and fused with the encoder's own backward: the
operands of the decoder's weight gradients waited for that, and the step held 224 MiB; in the graph's order, 135.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any


def graph_order(nodes: Sequence[Any]) -> list[Any]:
    """The scheduler's kernels, always the one that comes first in the graph among those whose inputs are computed."""
    writer = {name: index for index, node in enumerate(nodes) for name in node.get_buffer_names()}
    awaited = [
        {writer[dependency.name] for dependency in node.unmet_dependencies if dependency.name in writer} - {index}
        for index, node in enumerate(nodes)
    ]
    readers: list[list[int]] = [[] for _ in nodes]
    for index, writers in enumerate(awaited):
        for written in writers:
            readers[written].append(index)
    waiting = [len(writers) for writers in awaited]
    ready = [(node.min_order, index) for index, node in enumerate(nodes) if not waiting[index]]
    heapq.heapify(ready)
    order: list[Any] = []
    while ready:
        _, index = heapq.heappop(ready)
        order.append(nodes[index])
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, (nodes[reader].min_order, reader))
    return order


def with_lower_peak(nodes: Sequence[Any]) -> list[Any]:
    """The kernels in the given order or in the graph's, whichever has the lower peak by Inductor's estimate."""
    from torch._inductor.memory import estimate_peak_memory, prepare_planning_info
    from torch._inductor.virtualized import V
    from torch.utils._ordered_set import OrderedSet

    given, reordered = list(nodes), graph_order(nodes)
    if reordered == given or len(reordered) != len(given):
        return given
    scheduler, outputs = V.graph.scheduler, OrderedSet(V.graph.get_output_names())
    inputs = OrderedSet(V.graph.graph_inputs.keys())
    tables = scheduler.name_to_buf, scheduler.name_to_fused_node
    peak, freeable = prepare_planning_info(given, *tables, inputs, outputs)
    return reordered if estimate_peak_memory(reordered, freeable, outputs)[0] < peak else given
