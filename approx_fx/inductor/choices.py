"""Fusion choice: refuse a horizontal fusion that extends live ranges by more bytes than it saves reading.

Inductor fuses kernels that read the same bytes, wherever their results are used. If a convolution or matrix product
runs between the two, then either the later kernel's results are computed early and live through it, or the earlier
kernel is delayed, and the other operands of its readers live longer. The fusion saves one read of the shared bytes, few
for codes; it is refused if it holds more bytes than that, on a GPU more than 3/4 of that: ResNet-50 in bfloat16 then
moves 27.9 GiB with 1.06 alive; 27.6 and 1.82 with the factor 1; 29.3 and 1.04 with 0 (`tools/gpu_code.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sympy import sympify


@dataclass(frozen=True)
class ExternKernels:
    """The convolutions and matrix products that a graph calls from libraries. They are never fused.

    ops: the scheduler's nodes by name, in their order. positions: the cache of `schedule_position`.
    """

    ops: Mapping[str, Any]
    positions: dict[Any, int] = field(default_factory=dict)

    def schedule_position(self, kernel: Any) -> int:
        """The position of the first node fused in a kernel, or that of the last extern kernel it needs, if later."""
        if kernel not in self.positions:
            awaited = (op.min_order for name, op in reversed(list(self.ops.items())) if name in kernel.ancestors)
            self.positions[kernel] = max(kernel.min_order, next(awaited, 0))
        return self.positions[kernel]


def extends_live_ranges(one: Any, other: Any, extern: ExternKernels, buffers: Mapping[str, Any], shared: int) -> bool:
    """Whether fusing two kernels may keep more than `shared` bytes alive through an extern kernel between them.

    buffers: the scheduler's buffers by name.
    """
    early, late = sorted((one, other), key=extern.schedule_position)
    first, last = extern.schedule_position(early), extern.schedule_position(late)
    between = [name for name, op in extern.ops.items() if first < op.min_order < last]
    if not between:
        return False
    early_ops = early.get_operation_names()
    dependent = [name for name in between if any(op in extern.ops[name].ancestors for op in early_ops)]
    delayed = (_reads(extern.ops[name]) & buffers.keys() - _reads(late) for name in dependent)
    held = max((sum(size(buffers[name]) for name in operands) for operands in delayed), default=0)
    if not any(name in late.ancestors for name in between):
        fused_ops = early_ops | late.get_operation_names()
        added = sum(size(buffer) for buffer in late.get_outputs() if _readers(buffer) - fused_ops)
        inputs = [buffers[name] for name in _reads(late) & buffers.keys()]
        held = max(held, added - sum(size(buffer) for buffer in inputs if _readers(buffer) <= fused_ops))
    return held > shared


def size(buffer: Any) -> int:
    """Bytes of a scheduler's buffer; 0 if its size is symbolic or it holds no tensor."""
    if not buffer.node.has_tensor_output():
        return 0
    lengths = [sympify(length) for length in buffer.node.get_size()]
    is_static = all(length.is_number for length in lengths)
    return math.prod(map(int, lengths)) * int(buffer.node.get_dtype().itemsize) if is_static else 0


def _readers(buffer: Any) -> set[str]:
    """The names of the operations that read a buffer; the graph's output is one of them."""
    return {user.get_name() for user in buffer.users if not user.is_weak}


def _reads(kernel: Any) -> set[str]:
    """The names of the buffers that a kernel reads."""
    return {read.name for read in kernel.read_writes.reads}


def peak_aware_choices(low_peak: bool = False) -> Any:
    """Inductor's choices without fusions that extend live ranges too far; None if the user has set other choices.

    low_peak: without any horizontal fusion.
    """
    from torch._inductor.choices import InductorChoices
    from torch._inductor.virtualized import V

    class PeakAwareChoices(InductorChoices):
        """Inductor's heuristics with one changed. extern: the half's extern kernels, filled in at the first query."""

        extern: ExternKernels | None = None

        def can_fuse_horizontal(self, scheduler: Any, node1: Any, node2: Any, shared_data_score: int) -> bool:  # type: ignore[override]
            if low_peak or not InductorChoices.can_fuse_horizontal(scheduler, node1, node2, shared_data_score):
                return False
            if self.extern is None:
                self.extern = ExternKernels({node.get_name(): node for node in scheduler.nodes if node.is_extern()})
            saved = shared_data_score if str(node1.get_device()).startswith("cpu") else shared_data_score * 3 // 4
            return not extends_live_ranges(node1, node2, self.extern, scheduler.name_to_buf, saved)

        def uuid(self) -> str:
            """A constant, because the partitioner's cache key covers this package's sources."""
            return "approx_fx.peak_aware_choices"

    return PeakAwareChoices() if type(V.choices) is InductorChoices else None
