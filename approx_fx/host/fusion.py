"""torch._inductor: refuse a fusion that decodes long before the first use, or holds an operand back from its reader.

Inductor fuses kernels that read the same bytes, wherever their results go. If a convolution or matrix product runs
between the two, either the later one's results live through it (decoded early), or the earlier one's wait until after
it, and what reads them holds its other operands so long. The fusion saves reading what both read, for codes a few bits
an element; it is refused where it holds more bytes than that.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

from sympy import sympify


def holds_more(one: Any, other: Any, heavy: dict[str, Any], buffers: dict[str, Any], shared: int) -> bool:
    """Whether fusing two kernels may hold more bytes through a heavy op between than the `shared` it saves reading.

    heavy: the heavy ops by name. buffers: what the graph computes, by name.
    """
    early, late = sorted((one, other), key=lambda kernel: _place(kernel, heavy))
    between = {name for name, op in heavy.items() if _place(early, heavy) < op.min_order < _place(late, heavy)}
    behind = {name for name in between if heavy[name].ancestors & early.get_operation_names()}
    waiting = (_reads(heavy[name]) & buffers.keys() - _reads(late) for name in behind)
    held = max((sum(size(buffers[name]) for name in operands) for operands in waiting), default=0)
    if between and not late.ancestors & between:
        names = early.get_operation_names() | late.get_operation_names()
        made = sum(size(buffer) for buffer in late.get_outputs() if _readers(buffer) - names)
        freed = sum(size(buffers[name]) for name in _reads(late) & buffers.keys() if _readers(buffers[name]) <= names)
        held = max(held, made - freed)
    return held > shared


def _place(kernel: Any, heavy: dict[str, Any]) -> int:
    """Where a kernel runs: where the first of what is fused in it stands, or behind a heavy op that it waits for."""
    return max(kernel.min_order, max((heavy[name].min_order for name in kernel.ancestors & heavy.keys()), default=0))


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


@contextlib.contextmanager
def decoded_late() -> Iterator[None]:
    """Inductor inside refuses such fusions, unless the user has set choices of their own. For one compile at a time."""
    from torch._inductor.choices import InductorChoices
    from torch._inductor.virtualized import V

    heavy: dict[Any, dict[str, Any]] = {}  # of each scheduler; these are never fused, so that they stay the same

    class DecodedLate(InductorChoices):
        @staticmethod
        def can_fuse_horizontal(scheduler: Any, node1: Any, node2: Any, shared_data_score: int) -> bool:
            if not InductorChoices.can_fuse_horizontal(scheduler, node1, node2, shared_data_score):
                return False
            if scheduler not in heavy:
                heavy[scheduler] = {node.get_name(): node for node in scheduler.nodes if node.is_extern()}
            return not holds_more(node1, node2, heavy[scheduler], scheduler.name_to_buf, shared_data_score)

    if type(V.choices) is not InductorChoices:
        yield
        return
    with V.set_choices_handler(DecodedLate()):
        yield
