"""torch._inductor: which freed buffers are kept for later ones, by the bytes that are really alive.

Inductor keeps a freed buffer for a later one of its size as long as its own estimate of the peak does not rise. The
estimate is generous: codes that a loop reads once for each of a byte's parts count as often as they are read, and a
kernel that writes in place counts as holding both buffers. Up to that estimate buffers lay idle.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

from .fusion import size


def input_sizes(inputs: Mapping[str, Any]) -> None:
    """Let each saved tensor among `inputs`, by name, count once; what a symbol sizes stays as it is."""
    from torch._inductor.virtualized import V

    for name, buffer in inputs.items():
        numel = getattr(V.graph.get_numel(name), "is_number", False) and int(V.graph.get_numel(name))
        if numel:
            buffer.mpi_buffer.size_free = numel * V.graph.get_dtype(name).itemsize


def without(in_place: Collection[str], nodes: Sequence[Any], live: Sequence[int]) -> list[int]:
    """Live bytes at each of `nodes`; a buffer that takes another's memory over, one of `in_place`, adds none."""
    found = list(live)
    for index, node in enumerate(nodes):
        found[index] -= sum(size(buffer) for buffer in node.get_outputs() if buffer.get_name() in in_place)
    return found


@contextlib.contextmanager
def peak_estimated() -> Iterator[None]:
    """Inductor inside estimates so. For one compile at a time."""
    from torch._inductor import memory
    from torch._inductor.codegen.wrapper import EfficientPeakEstimate
    from torch._inductor.virtualized import V

    begin, freeable, estimate = (
        EfficientPeakEstimate.__init__, memory.get_freeable_input_buf, memory.estimate_peak_memory
    )  # fmt: skip

    def get_freeable_input_buf(*args: Any) -> Any:
        found = freeable(*args)
        input_sizes(found)
        return found

    def estimate_in_place(nodes: list[Any], *args: Any) -> tuple[int, list[int]]:
        live = without(V.graph.wrapper_code.reuses, nodes, estimate(nodes, *args)[1])
        return max(live), live

    def begin_in_place(self: Any) -> None:
        with mock.patch.object(memory, "estimate_peak_memory", estimate_in_place):
            begin(self)

    with (
        mock.patch.object(memory, "get_freeable_input_buf", get_freeable_input_buf),
        mock.patch.object(EfficientPeakEstimate, "__init__", begin_in_place),
    ):
        yield
