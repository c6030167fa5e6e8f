"""When a value with several readers is materialized, and when each reader recomputes it.

Inductor decides by counting: it materializes a value that takes many operations or reads many buffers. In a half that
encodes or decodes, the op `MATERIALIZE` behind an elementwise value decides by bytes instead. Results are the same.

On a CPU a sum of tensors that is read again is materialized. A residual sum a + b is read by the statistics of the next
normalisation, by the normalisation, and by the next sum. Materialized, that takes two reads, a write and two more
reads, and a and b are freed at once; recomputed it takes six reads, and nine once the next branch is added.

On a GPU a value computed from codes may exceed Inductor's thresholds. Decoding one code takes some 15 operations and a
few vectors of channels, so Inductor would materialize a value computed from two codes, though it reads next to nothing:
in float32, at twice the bytes of the bfloat16 activation it comes from. Here each reader recomputes a value that has no
fewer bytes than its inputs. Inductor's thresholds are lifted for that (`half.GPU_OPTIONS`); those below replace them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from .compile_time_ops import MATERIALIZE, UPCAST
from .ir import full_size_reads

CAST = torch.ops.prims.convert_element_type.default
# Storing a narrower dtype would round once more than torch.compile does.
UNROUNDED = (torch.float32, torch.float64)
# On a GPU: a value is materialized if it takes more operations or reads more buffers; the last for one read repeatedly.
MAX_OPERATIONS, MAX_READS, MAX_SHARED_READS = 100, 8, 4
SMALL_RATIO = 16  # a buffer with fewer elements than 1/16 of the value's, such as packed masks, is not counted


def mark_for_materialization(graph: fx.Graph, _: Collection[Any]) -> None:
    """Put `MATERIALIZE` behind every elementwise value that it may have to materialize, in place."""
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
    """On a GPU, replace each cast from 16 bits to float32 that has several readers by `UPCAST`, in place.

    Inductor materializes a value with many readers. For a gradient that is cast up for batch normalisation that would
    be the cast, with twice the bytes of its source. Only for backwards: a forward's results must not change.
    """
    for node in graph.find_nodes(op="call_function", target=CAST):
        source = node.args[0].meta["val"]
        widens = source.dtype in (torch.bfloat16, torch.float16) and node.args[1] == torch.float32
        if widens and source.device.type != "cpu" and len(node.users) > 1:
            node.target = UPCAST
            node.args = (*node.args, len(node.users))


def lower_materialize(x: Any, readers: int) -> Any:
    """Lowering of `MATERIALIZE`: Inductor's value x, materialized if `_should_materialize` says so."""
    loops = _loops(x)
    if loops is not None and _should_materialize(loops, readers):
        x.realize()
    return x


def lower_upcast(x: Any, dtype: torch.dtype, readers: int) -> Any:
    """Lowering of `UPCAST`: x cast to `dtype`; if the cast should be materialized, x is, and each reader casts it."""
    from torch._inductor.lowering import lowerings

    cast = lowerings[CAST](x, dtype)
    loops = _loops(cast)
    if _loops(x) is not None and loops is not None and _should_materialize(loops, readers):
        x.realize()
        return lowerings[CAST](x, dtype)
    return cast


def _loops(x: Any) -> Any:
    """The elementwise loops of an Inductor value that is not materialized; None for any other value."""
    from torch._inductor.ir import Pointwise, StorageBox

    storage = x.data
    return storage.data if isinstance(storage, StorageBox) and isinstance(storage.data, Pointwise) else None


def _should_materialize(loops: Any, readers: int) -> bool:
    if str(loops.get_device()).startswith("cpu"):
        return readers > 1 and full_size_reads(loops) > 1
    limit = MAX_SHARED_READS
    return _exceeds_limits(loops) or (readers > 1 and loops.num_reads() > limit and not _cheaper_to_recompute(loops))


def _exceeds_limits(loops: Any) -> bool:
    """Whether these loops take more operations, or read more large buffers, than one kernel should."""
    from torch._inductor.virtualized import V

    opcount = loops.inner_fn_opcount()
    buffers = [V.graph.try_get_buffer(name) for name in opcount.read_buffers]
    numels = [buffer.get_numel() for buffer in buffers if buffer is not None]
    is_less = V.graph.sizevars.statically_known_lt
    large = [numel for numel in numels if not is_less(SMALL_RATIO * numel, loops.get_numel())]
    return bool(opcount.num_ops > MAX_OPERATIONS or len(large) > MAX_READS)


def _cheaper_to_recompute(loops: Any) -> bool:
    """Whether recomputing a float32 value reads no more bytes than reading the materialized value would."""
    from torch._inductor.virtualized import V

    opcount = loops.inner_fn_opcount()
    buffers: list[Any] = [V.graph.try_get_buffer(name) for name in opcount.read_buffers]
    if loops.get_dtype() != torch.float32 or None in buffers:
        return False
    read = sum(buffer.get_numel() * buffer.get_dtype().itemsize for buffer in buffers)
    return bool(V.graph.sizevars.statically_known_leq(read, loops.get_numel() * loops.get_dtype().itemsize))
