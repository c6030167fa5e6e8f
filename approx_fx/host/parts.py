"""torch._inductor's C++: a ReLU is written in as many parts as a byte holds of its codes, all in one loop.

A byte holds codes that lie far apart, see `ops.pack`. Inductor's loop over a ReLU writes them one by one, as bytes, and
a second loop packs these. Here the ReLU is a cat of parts that are written side by side, in one loop that makes each
byte of the codes it has at hand. No value is computed in another way: the forward is the same, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import fx
from torch._ops import OpOverload

from . import lowered
from .staged import strides_of

aten = torch.ops.aten

# What wants its input in memory: where a ReLU goes nowhere else, it may never be written.
READERS = frozenset({"aten.convolution.default", "prims._low_memory_max_pool_with_offsets.default"})
# Eight parts, a mask's, were measured to be no faster.
MOST = 4


def parts_of(node: fx.Node, ours: Collection[Any]) -> int:
    """Into how many parts of its first dimension, without padding, one of `ours` packs values; 1 for anything else."""
    target, codes = node.target, node.meta.get("val")
    if target not in ours or not isinstance(target, OpOverload) or not isinstance(codes, torch.Tensor):
        return 1
    given = dict(zip([argument.name for argument in target._schema.arguments], node.args, strict=False))
    bits, values = given.get("bits"), given.get("x")
    if given.get("pack_dim") != 0 or not isinstance(bits, int) or not isinstance(values, fx.Node) or 8 % bits:
        return 1
    count, length = 8 // bits, values.meta["val"].shape[0]
    return count if isinstance(length, int) and length == count * codes.shape[0] > 0 else 1


@dataclass(frozen=True)
class Parts:
    """count: how many; packing: the ops that pack the codes."""

    count: int
    packing: tuple[fx.Node, ...]


def parted(graph: fx.Graph, ours: Collection[Any]) -> dict[fx.Node, Parts]:
    """The ReLUs to be written in parts: those that are written, and whose sign goes into codes of what they come from.

    Not those whose mask is kept as it is, nor those that are coded themselves.
    """
    found: dict[fx.Node, Parts] = {}
    for relu in graph.find_nodes(op="call_function", target=aten.relu.default):
        signs = [node for node in relu.users if node.target is aten.le.Scalar]
        turned = [node for sign in signs for node in sign.users if node.target is aten.logical_not.default]
        packing = [node for sign in (*signs, *turned) for node in sign.users if node not in turned]
        counts = {parts_of(node, ours) for node in packing}
        read = any(str(node.target) in READERS for node in relu.users)
        if read and len(counts) == 1 and 1 < min(counts) <= MOST:
            found[relu] = Parts(min(counts), tuple(packing))
    return found


def _in_parts(value: Any, count: int) -> tuple[Any, Sequence[int]] | None:
    """Inductor's value in memory, as a cat of `count` parts, and its order there; None if it reads no buffer whole."""
    from torch._inductor import ir
    from torch._inductor.lowering import lowerings
    from torch._inductor.virtualized import V

    sizes, strides = [int(size) for size in value.get_size()], strides_of(value)
    if not strides or any(stride == 0 and size != 1 for stride, size in zip(strides, sizes, strict=True)):
        return None
    order = ir.get_stride_order(strides)
    dense = ir.FlexibleLayout.stride_ordered(sizes, order)
    layout = ir.FixedLayout(value.get_device(), value.get_dtype(), sizes, dense)
    whole: Any = ir.ConcatKernel(name=None, layout=layout, inputs=[])
    box, step = ir.StorageBox(whole), sizes[0] // count
    for start in range(0, sizes[0], step):
        place = ir.SliceView.create(box, 0, start, start + step, clamp=False)
        part = lowerings[aten.slice.Tensor](value, 0, start, start + step)
        whole.inputs.append(ir.ConcatKernel.realize_into(part, place))
    whole.name = V.graph.register_buffer(whole)
    whole.inputs = ir.ConcatKernel.unwrap_storage(whole.inputs)
    V.graph.register_operation(whole)
    return ir.TensorBox(box), order


@contextlib.contextmanager
def in_parts(half: fx.GraphModule, ours: Collection[Any]) -> Iterator[None]:
    """Inductor inside writes such ReLUs so, on the CPU, if `half` calls one of `ours`. For one compile at a time."""
    from torch._inductor import ir
    from torch._inductor.lowering import lowerings
    from torch._inductor.virtualized import V

    if not any(node.target in ours for node in half.graph.nodes):
        yield
        return
    table: dict[Any, Any] = lowerings
    relu, le = table[aten.relu.default], table[aten.le.Scalar]
    reused, in_order = lowered.FUNCTIONS["reused"], lowered.FUNCTIONS["in_order"]
    known: dict[fx.Graph, dict[fx.Node, Parts]] = {}
    values: dict[Any, Any] = {}  # of each ReLU in parts, as it is computed
    packing: dict[Any, Sequence[int]] = {}  # what packs codes of theirs -> their order in memory

    def relu_of(x: Any) -> Any:
        node, value = V.graph.current_node, relu(x)
        if node.graph not in known:
            known[node.graph] = parted(node.graph, ours)
        parts = known[node.graph].get(node)
        static = all(getattr(size, "is_number", True) for size in value.get_size())
        if parts is None or not static or str(value.get_device()) != "cpu":
            return value
        made = _in_parts(value, parts.count)
        if made is None:
            return value
        values[node] = value
        packing.update(dict.fromkeys(parts.packing, made[1]))
        return made[0]

    def le_of(x: Any, other: Any) -> Any:
        node = V.graph.current_node  # some other op, if its lowering compares
        return le(values.get(node.args[0], x) if node.target is aten.le.Scalar else x, other)

    def reused_of(codes: lowered.Value) -> lowered.Value:
        return codes.whole or codes if V.graph.current_node in packing else reused(codes)

    def in_order_of(codes: lowered.Value, like: lowered.Value) -> lowered.Value:
        if V.graph.current_node not in packing:
            return in_order(codes, like)
        return lowered.Value(ir.ExternKernel.require_stride_order(codes.box, packing[V.graph.current_node]))

    with (
        mock.patch.dict(table, {aten.relu.default: relu_of, aten.le.Scalar: le_of}),
        mock.patch.dict(lowered.FUNCTIONS, reused=reused_of, in_order=in_order_of),
    ):
        yield
