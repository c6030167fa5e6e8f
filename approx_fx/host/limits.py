"""torch._inductor on a GPU: what decodes codes on its way may do more than Inductor allows, before it is written out.

Inductor writes a value that took more than 30 operations, or reads more than 8 buffers, and goes on from memory, so
that little is done twice. Taking a code out of its byte, and a number out of the code, takes some 15 operations and a
few vectors of channels. What is computed from two codes then counts as much, though next to nothing is read, and is
written: in float32, a product that only a sum reads, at twice the bytes of the bfloat16 activation that it is made of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any
from unittest import mock

from torch import fx

# Operations, and buffers with at least one element for every sixteen of the value, as a byte of eight masks has.
OPERATIONS, READS, FEW = 100, 8, 16


def is_much(loops: Any) -> bool:
    """Whether Inductor's value takes more than that."""
    from torch._inductor.virtualized import V

    done = loops.inner_fn_opcount()
    buffers = [V.graph.try_get_buffer(name) for name in done.read_buffers]
    numels = [buffer.get_numel() for buffer in buffers if buffer is not None]
    large = [numel for numel in numels if not V.graph.sizevars.statically_known_lt(FEW * numel, loops.get_numel())]
    return bool(done.num_ops > OPERATIONS or len(large) > READS)


@contextlib.contextmanager
def more_at_once(half: fx.GraphModule, ours: Collection[Any]) -> Iterator[None]:
    """Inductor inside keeps to these limits on a GPU, if `half` calls one of `ours`. For one compile at a time."""
    from torch._inductor.ir import StorageBox

    if not any(node.target in ours for node in half.graph.nodes):
        yield
        return
    theirs = StorageBox.has_exceeded_max_reads

    def has_exceeded_max_reads(self: Any) -> bool:
        exceeded = theirs(self)
        return bool(exceeded and (str(self.data.get_device()).startswith("cpu") or is_much(self.data)))

    with mock.patch.object(StorageBox, "has_exceeded_max_reads", has_exceeded_max_reads):
        yield
