"""torch._inductor on a GPU: what decodes codes on its way may do more than Inductor allows, before it is written out.

Inductor writes a value that took more than 30 operations, or reads more than 8 buffers, and goes on from memory, so
that little is done twice. Taking a code out of its byte, and a number out of the code, takes some 15 operations and a
few vectors of channels. What is computed from two codes then counts as much, though next to nothing is read, and is
written: in float32, a product that only a sum reads, at twice the bytes of the bfloat16 activation that it is made of.

It writes as well what more than one reads, if it reads more than 4 buffers, however small. A value that is made of no
more bytes than it has is made anew by each reader instead, as an activation's argument is by its slope, and by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any
from unittest import mock

import torch
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


def is_light(loops: Any) -> bool:
    """Whether Inductor's float32 value is made of no more bytes than it has, and by few enough operations.

    One of fewer bits is rounded where it is written, and only there.
    """
    from torch._inductor.virtualized import V

    done = loops.inner_fn_opcount()
    buffers: list[Any] = [V.graph.try_get_buffer(name) for name in done.read_buffers]
    if loops.get_dtype() != torch.float32 or done.num_ops > OPERATIONS or None in buffers:
        return False
    read = sum(buffer.get_numel() * buffer.get_dtype().itemsize for buffer in buffers)
    own = loops.get_numel() * loops.get_dtype().itemsize
    return bool(V.graph.sizevars.statically_known_leq(read, own))


@contextlib.contextmanager
def more_at_once(half: fx.GraphModule, ours: Collection[Any]) -> Iterator[None]:
    """Inductor inside keeps to these limits on a GPU, if `half` calls one of `ours`. For one compile at a time."""
    from torch._inductor.ir import StorageBox

    if not any(node.target in ours for node in half.graph.nodes):
        yield
        return
    theirs, keeps = StorageBox.has_exceeded_max_reads, StorageBox.should_realize_on_reuse

    def on_cpu(self: Any) -> bool:
        return str(self.data.get_device()).startswith("cpu")

    def has_exceeded_max_reads(self: Any) -> bool:
        return bool(theirs(self) and (on_cpu(self) or is_much(self.data)))

    def should_realize_on_reuse(self: Any, *args: Any, **options: Any) -> bool:
        return bool(keeps(self, *args, **options) and (on_cpu(self) or not is_light(self.data)))

    with (
        mock.patch.object(StorageBox, "has_exceeded_max_reads", has_exceeded_max_reads),
        mock.patch.object(StorageBox, "should_realize_on_reuse", should_realize_on_reuse),
    ):
        yield
