"""Scheduler pass: copies of weights move up to the last kernel before them, instead of making a kernel each.

Inductor writes the loops between two library calls as one C++ function. Where a convolution's backward is split in two,
the second call reads the weight in another layout; that copy between two calls would cost a C++ file per convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .choices import size


def advance_weight_copies(nodes: Sequence[Any]) -> list[Any]:
    """The scheduler's nodes, reordered: copies of graph inputs go right behind the last generated kernel so far."""
    order: list[Any] = []
    behind_kernel = 0  # the position right behind the last kernel that Inductor generates
    for node in nodes:
        if behind_kernel and not node.is_extern() and order[-1].is_extern() and _copies_inputs(node):
            order.insert(behind_kernel, node)
            behind_kernel += 1
            continue
        order.append(node)
        behind_kernel = behind_kernel if node.is_extern() else len(order)
    return order


def _copies_inputs(node: Any) -> bool:
    """Whether a kernel reads only graph inputs and writes no more bytes than it reads, so that it decodes nothing."""
    from torch._inductor.virtualized import V

    reads = [V.graph.try_get_buffer(read.name) for read in node.read_writes.reads]
    if node.unmet_dependencies or not reads or None in reads:
        return False
    read = sum(buffer.get_numel() * buffer.get_dtype().itemsize for buffer in reads if buffer is not None)
    written = sum(map(size, node.get_outputs()))
    return written > 0 and V.graph.sizevars.statically_known_leq(written, read)
