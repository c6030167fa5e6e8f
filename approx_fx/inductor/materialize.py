"""When a value with several readers is written to memory, and when each reader computes it anew.

Inductor decides by counting: it writes what took many operations, or reads many buffers. `MATERIALIZE` stands behind an
element-wise value, in a half that encodes or decodes, and decides by bytes. It says nothing of what is computed.

On a CPU a sum of tensors that is read again is written once. A residual stream is read by the statistics of the next
normaliser, by the normaliser, and by the next sum: with a + b kept that is two reads, a write and two more reads, and a
and b are free at once; computed anew it is six, and soon nine, with the branch before it.

On a GPU what decodes codes on its way may do more than Inductor allows. Taking a code out of its byte, and a number out
of the code, takes some 15 operations and a few vectors of channels. What is computed from two codes then counts as
much, though next to nothing is read, and Inductor writes it: in float32, at twice the bytes of the bfloat16 activation
that it is made of. A value that is made of no more bytes than it has is computed anew by each reader. Inductor's own
limits are lifted for that (`half.GPU_OPTIONS`), and are the rule here for what is not light.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from .compile_time_ops import MATERIALIZE, UPCAST
from .ir import full_size_reads

CAST = torch.ops.prims.convert_element_type.default
# In fewer bits what is written would be rounded once more than torch.compile rounds it.
UNROUNDED = (torch.float32, torch.float64)
# On a GPU: operations a value may take, buffers it may read, and those that a reader may do for a value it shares.
OPERATIONS, READS, SHARED_READS = 100, 8, 4
SMALL = 16  # a buffer with fewer elements than a 16th of the value's, as a byte of eight masks has, is not counted


def mark_for_materialization(graph: fx.Graph, _: Collection[Any]) -> None:
    """Put `MATERIALIZE` behind every element-wise value of which it may decide something, in place."""
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or torch.Tag.pointwise not in getattr(node.target, "tags", ()):
            continue
        on_cpu, readers = value.device.type == "cpu", len(node.users)
        if on_cpu and (value.dtype not in UNROUNDED or readers < 2):
            continue
        with graph.inserting_before(node.next):
            marked = graph.call_function(MATERIALIZE, (node, readers))
        marked.meta = dict(node.meta)
        node.replace_all_uses_with(marked, delete_user_cb=lambda user, marked=marked: user is not marked)


def upcast_per_reader(graph: fx.Graph, _: Collection[Any]) -> None:
    """Call `UPCAST` for a cast to float32 that several read, in place, on a GPU, in a backward.

    Inductor gives what is read often memory of its own. Where that is a gradient cast up for batch normalisation, it is
    the cast that gets it: twice the bytes of what was cast. Elsewhere than in a backward, a rounding more would show.
    """
    for node in graph.find_nodes(op="call_function", target=CAST):
        source = node.args[0].meta["val"]
        widens = source.dtype in (torch.bfloat16, torch.float16) and node.args[1] == torch.float32
        if widens and source.device.type != "cpu" and len(node.users) > 1:
            node.target = UPCAST
            node.args = (*node.args, len(node.users))


def lower_materialize(x: Any, readers: int) -> Any:
    """Inductor's value itself, in memory or not."""
    loops = _loops(x)
    if loops is not None and _should_materialize(loops, readers):
        x.realize()
    return x


def lower_upcast(x: Any, dtype: torch.dtype, readers: int) -> Any:
    """Inductor's value as `dtype`: where that would be written, the value is, and is cast by each reader."""
    from torch._inductor.lowering import lowerings

    cast = lowerings[CAST](x, dtype)
    loops = _loops(cast)
    if _loops(x) is not None and loops is not None and _should_materialize(loops, readers):
        x.realize()
        return lowerings[CAST](x, dtype)
    return cast


def _loops(x: Any) -> Any:
    """The element-wise loops of a value that Inductor has not written to memory; None for any other value."""
    from torch._inductor.ir import Pointwise, StorageBox

    storage = x.data
    return storage.data if isinstance(storage, StorageBox) and isinstance(storage.data, Pointwise) else None


def _should_materialize(loops: Any, readers: int) -> bool:
    if str(loops.get_device()).startswith("cpu"):
        return readers > 1 and full_size_reads(loops) > 1
    return _is_much(loops) or (readers > 1 and loops.num_reads() > SHARED_READS and not _is_light(loops))


def _is_much(loops: Any) -> bool:
    """Whether Inductor's value takes more than one kernel should do."""
    from torch._inductor.virtualized import V

    opcount = loops.inner_fn_opcount()
    buffers = [V.graph.try_get_buffer(name) for name in opcount.read_buffers]
    numels = [buffer.get_numel() for buffer in buffers if buffer is not None]
    large = [numel for numel in numels if not V.graph.sizevars.statically_known_lt(SMALL * numel, loops.get_numel())]
    return bool(opcount.num_ops > OPERATIONS or len(large) > READS)


def _is_light(loops: Any) -> bool:
    """Whether computing a float32 value anew reads no more bytes than reading the value itself from memory would."""
    from torch._inductor.virtualized import V

    opcount = loops.inner_fn_opcount()
    buffers: list[Any] = [V.graph.try_get_buffer(name) for name in opcount.read_buffers]
    if loops.get_dtype() != torch.float32 or None in buffers:
        return False
    read = sum(buffer.get_numel() * buffer.get_dtype().itemsize for buffer in buffers)
    return bool(V.graph.sizevars.statically_known_leq(read, loops.get_numel() * loops.get_dtype().itemsize))
