"""torch._inductor: which freed buffers are kept for later ones, by the bytes that are really alive.

Inductor keeps a freed buffer for a later one of its size as long as its own estimate of the peak does not rise. The
estimate is generous: codes that a loop reads once for each of a byte's parts count as often as they are read, and a
kernel that writes in place counts as holding both buffers. Up to that estimate buffers lay idle. Here the peak is what
is really alive; only what is alive between a buffer's end and its next use stays generous.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from .choices import size


def count_inputs_once(inputs: Mapping[str, Any]) -> None:
    """Let each saved tensor among `inputs`, by name, count once; what a symbol sizes stays as it is."""
    from torch._inductor.virtualized import V

    for name, buffer in inputs.items():
        numel = getattr(V.graph.get_numel(name), "is_number", False) and int(V.graph.get_numel(name))
        if numel:
            buffer.mpi_buffer.size_free = numel * V.graph.get_dtype(name).itemsize


def subtract_in_place(in_place: Collection[str], nodes: Sequence[Any], live: Sequence[int]) -> list[int]:
    """Live bytes at each of `nodes`; a buffer that takes another's memory over, one of `in_place`, adds none."""
    found = list(live)
    for index, node in enumerate(nodes):
        found[index] -= sum(size(buffer) for buffer in node.get_outputs() if buffer.get_name() in in_place)
    return found


def counts_saved_inputs_once(original: Callable[..., Any]) -> Callable[..., Any]:
    """`memory.get_freeable_input_buf`, with each saved tensor counted once."""

    def get_freeable_input_buf(*args: Any) -> Any:
        buffers = original(*args)
        count_inputs_once(buffers)
        return buffers

    return get_freeable_input_buf


def begins_in_place(original: Callable[..., Any]) -> Callable[..., Any]:
    """`EfficientPeakEstimate.__init__`, of live bytes in which a buffer that takes another's memory over adds none."""

    def begin(self: Any) -> None:
        from torch._inductor import memory
        from torch._inductor.codegen.segmented_tree import SegmentedTree
        from torch._inductor.virtualized import V
        from torch.utils._ordered_set import OrderedSet

        nodes, outputs = V.graph.scheduler.nodes, OrderedSet(V.graph.get_output_names())
        inputs = memory.get_freeable_input_buf(nodes, OrderedSet(V.graph.graph_inputs.keys()))
        estimated = memory.estimate_peak_memory(nodes, inputs, outputs)[1]
        live = subtract_in_place(V.graph.wrapper_code.reuses, nodes, estimated)
        self.overall_peak_memory = max(live)
        self.segmented_tree = SegmentedTree(estimated, operator.add, max, 0)

    return begin
