"""torch._inductor.scheduler: a copy of a weight is made in the kernel before, not in one of its own between two calls.

Inductor writes the loops between two calls of a library as one C++ function. Where a convolution's backward is split in
two, the second half wants the weight in another layout: a loop between two calls, a C++ file for each convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .choices import size


def reordering() -> dict[str, Any]:
    """Inductor's options that have `advance_weight_copies` run last, behind passes that the user has set."""
    from torch._inductor import config

    passes = config.reorder_for_compute_comm_overlap_passes if config.reorder_for_compute_comm_overlap else []
    added = [*passes, advance_weight_copies]
    return {"reorder_for_compute_comm_overlap": True, "reorder_for_compute_comm_overlap_passes": added}


def advance_weight_copies(nodes: Sequence[Any]) -> list[Any]:
    """The scheduler's nodes, in order; copies of the graph's inputs go behind the last kernel before them."""
    order: list[Any] = []
    behind_kernel = 0  # the place right behind the last kernel that Inductor writes
    for node in nodes:
        if behind_kernel and not node.is_extern() and order[-1].is_extern() and _copies_inputs(node):
            order.insert(behind_kernel, node)
            behind_kernel += 1
            continue
        order.append(node)
        behind_kernel = behind_kernel if node.is_extern() else len(order)
    return order


def _copies_inputs(node: Any) -> bool:
    """Whether a kernel reads inputs of the graph alone and writes no more bytes than it reads: it decodes nothing."""
    from torch._inductor.virtualized import V

    reads = [V.graph.try_get_buffer(read.name) for read in node.read_writes.reads]
    if node.unmet_dependencies or not reads or None in reads:
        return False
    read = sum(buffer.get_numel() * buffer.get_dtype().itemsize for buffer in reads if buffer is not None)
    made = sum(map(size, node.get_outputs()))
    return made > 0 and V.graph.sizevars.statically_known_leq(made, read)
