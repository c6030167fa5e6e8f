"""Patched estimate of peak memory, by which Inductor decides which freed buffers it keeps for reuse.

Inductor keeps a freed buffer for a later one of its size as long as its estimate of the peak does not rise. The
estimate is too high: codes that a loop reads once for each code of a byte count once per read, and a kernel that writes
in place counts as holding both buffers. Up to that estimate, idle buffers stay allocated. Here the peak is that of the
live bytes; the estimate of the bytes alive between a buffer's last use and its reuse is still Inductor's.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from .choices import size


def count_inputs_once(inputs: Mapping[str, Any]) -> None:
    """Make each of `inputs`, graph inputs by name, count once, in place; those of symbolic size are not changed."""
    from torch._inductor.virtualized import V

    for name, buffer in inputs.items():
        numel = getattr(V.graph.get_numel(name), "is_number", False) and int(V.graph.get_numel(name))
        if numel:
            buffer.mpi_buffer.size_free = numel * V.graph.get_dtype(name).itemsize


def subtract_in_place(in_place: Collection[str], nodes: Sequence[Any], live: Sequence[int]) -> list[int]:
    """Live bytes at each of `nodes`, given `live`, less the buffers named in `in_place`, which reuse other memory."""
    corrected = list(live)
    for index, node in enumerate(nodes):
        corrected[index] -= sum(size(buffer) for buffer in node.get_outputs() if buffer.get_name() in in_place)
    return corrected


def counts_saved_inputs_once(original: Callable[..., Any]) -> Callable[..., Any]:
    """`memory.get_freeable_input_buf` with each saved tensor counted once. original: torch's."""

    def get_freeable_input_buf(*args: Any) -> Any:
        buffers = original(*args)
        count_inputs_once(buffers)
        return buffers

    return get_freeable_input_buf


def begins_in_place(original: Callable[..., Any]) -> Callable[..., Any]:
    """`EfficientPeakEstimate.__init__` with buffers that are written in place counted once. original is not used."""

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
