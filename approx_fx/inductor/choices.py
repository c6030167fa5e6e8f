"""torch._inductor: refuse a fusion that decodes long before the first use, or holds an operand back from its reader.

Inductor fuses kernels that read the same bytes, wherever their results go. If a convolution or matrix product runs
between the two, either the later one's results live through it (decoded early), or the earlier one's wait until after
it, and what reads them holds its other operands so long. The fusion saves reading what both read, for codes a few bits
an element; it is refused where it holds more bytes than that, on a GPU more than 3/4 of it: ResNet-50 in bfloat16 then
moves 27.9 GiB with 1.06 alive, 27.6 and 1.82 at the whole of it, 29.3 and 1.04 at nothing (`tools/gpu_code.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sympy import sympify


@dataclass(frozen=True)
class ExternKernels:
    """Convolutions and matrix products of a graph; they are never fused, so that they stay the same.

    ops: by name, in their order. places: where a kernel runs, as far as it was asked for.
    """

    ops: Mapping[str, Any]
    places: dict[Any, int] = field(default_factory=dict)

    def schedule_position(self, kernel: Any) -> int:
        """Where a kernel runs: where the first of what is fused in it is, or behind a heavy op that it waits for."""
        if kernel not in self.places:
            awaited = (op.min_order for name, op in reversed(list(self.ops.items())) if name in kernel.ancestors)
            self.places[kernel] = max(kernel.min_order, next(awaited, 0))
        return self.places[kernel]


def extends_live_ranges(one: Any, other: Any, extern: ExternKernels, buffers: Mapping[str, Any], shared: int) -> bool:
    """Whether fusing two kernels may hold more bytes through a heavy op between than the `shared` it saves reading.

    buffers: what the graph computes, by name.
    """
    early, late = sorted((one, other), key=extern.schedule_position)
    first, last = extern.schedule_position(early), extern.schedule_position(late)
    between = [name for name, op in extern.ops.items() if first < op.min_order < last]
    if not between:
        return False
    made = early.get_operation_names()
    behind = [name for name in between if any(op in extern.ops[name].ancestors for op in made)]
    waiting = (_reads(extern.ops[name]) & buffers.keys() - _reads(late) for name in behind)
    held = max((sum(size(buffers[name]) for name in operands) for operands in waiting), default=0)
    if not any(name in late.ancestors for name in between):
        names = made | late.get_operation_names()
        added = sum(size(buffer) for buffer in late.get_outputs() if _readers(buffer) - names)
        freed = sum(size(buffers[name]) for name in _reads(late) & buffers.keys() if _readers(buffers[name]) <= names)
        held = max(held, added - freed)
    return held > shared


def size(buffer: Any) -> int:
    """Bytes of a buffer; 0 where its size is a symbol, or it has none."""
    if not buffer.node.has_tensor_output():
        return 0
    lengths = [sympify(length) for length in buffer.node.get_size()]
    known = all(length.is_number for length in lengths)
    return math.prod(map(int, lengths)) * int(buffer.node.get_dtype().itemsize) if known else 0


def _readers(buffer: Any) -> set[str]:
    """The names of the operations that read a buffer, and of the graph's output if it is one."""
    return {user.get_name() for user in buffer.users if not user.is_weak}


def _reads(kernel: Any) -> set[str]:
    return {read.name for read in kernel.read_writes.reads}


def peak_aware_choices() -> Any:
    """Inductor's choices for one half, with such fusions refused; None where the user has set choices of their own."""
    from torch._inductor.choices import InductorChoices
    from torch._inductor.virtualized import V

    class PeakAwareChoices(InductorChoices):
        """Inductor's own heuristics but for one. extern: the extern kernels of the half's scheduler, once asked for."""

        extern: ExternKernels | None = None

        def can_fuse_horizontal(self, scheduler: Any, node1: Any, node2: Any, shared_data_score: int) -> bool:  # type: ignore[override]
            if not InductorChoices.can_fuse_horizontal(scheduler, node1, node2, shared_data_score):
                return False
            if self.extern is None:
                self.extern = ExternKernels({node.get_name(): node for node in scheduler.nodes if node.is_extern()})
            saved = shared_data_score if str(node1.get_device()).startswith("cpu") else shared_data_score * 3 // 4
            return not extends_live_ranges(node1, node2, self.extern, scheduler.name_to_buf, saved)

        def uuid(self) -> str:
            """Constant: this package's sources are in the partitioner's key."""
            return "approx_fx.peak_aware_choices"

    return PeakAwareChoices() if type(V.choices) is InductorChoices else None
