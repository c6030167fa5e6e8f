"""torch._inductor: a value is written in as many parts as a byte holds of its codes, all in one loop.

A byte holds codes that lie far apart, see `ops.pack`. Inductor's loop over a ReLU writes them one by one, as bytes, and
a second loop packs these. Here the ReLU is a cat of parts that are written side by side, in one loop that makes each
byte of the codes it has at hand. No value is computed in another way: the forward is the same, bit for bit. Which
values are written so, see `packing`.

On a GPU tiles that have scales of their own are reduced in as many parts, too, by the kernel that packs them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import fx
from torch._ops import OpOverload

from . import lowered
from .packing import POINTWISE, Packing, Parts, parted
from .staged import strides_of

aten = torch.ops.aten


def _in_parts(value: Any, count: int, order: Sequence[int] | None = None) -> tuple[Any, Sequence[int]] | None:
    """Inductor's value in memory, as a cat of `count` parts, and its order there.

    order: by default that of the buffer it reads; None if it reads no buffer whole.
    """
    from torch._inductor import ir
    from torch._inductor.lowering import lowerings
    from torch._inductor.virtualized import V

    sizes = [int(size) for size in value.get_size()]
    if order is None:
        strides = strides_of(value)
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


def _tiles_apart(x: lowered.Value, bits: int, dim: int, tile: int) -> list[lowered.Value]:
    """On a GPU the parts whose codes share bytes, where whole tiles fit into each; else x alone.

    A kernel reduces them side by side and writes the bytes: else it writes codes, for another to read and pack.
    """
    count = 8 // bits if 8 % bits == 0 else 1
    if x.box.get_device().type == "cpu" or count == 1 or dim != 0 or x.shape[0] % (count * tile):
        return [x]
    step = x.shape[0] // count
    return [x.narrow(0, start, step) for start in range(0, x.shape[0], step)]


@contextlib.contextmanager
def in_parts(half: fx.GraphModule, ours: Collection[Any]) -> Iterator[None]:
    """Inductor inside writes such values so, if `half` calls one of `ours`. For one compile at a time."""
    from torch._inductor import ir
    from torch._inductor.lowering import lowerings
    from torch._inductor.virtualized import V

    if not any(node.target in ours for node in half.graph.nodes):
        yield
        return
    table: dict[Any, Any] = lowerings
    le, keeps = table[aten.le.Scalar], ir.StorageBox.should_realize_on_reuse
    reused, in_order = lowered.FUNCTIONS["reused"], lowered.FUNCTIONS["in_order"]
    known: dict[fx.Graph, dict[fx.Node, Parts]] = {}
    values: dict[Any, Any] = {}  # of each ReLU in parts, as it is computed
    # What packs codes -> how many parts its bytes are made in, and how it packs.
    packing: dict[Any, tuple[int, Packing]] = {}
    orders: dict[Any, Sequence[int]] = {}  # what packs codes -> the order in memory, where the value comes first
    passing: set[Any] = set()

    def planned(node: Any) -> dict[fx.Node, Parts]:
        if node.graph not in known:
            known[node.graph] = parted(node.graph, ours)
            for parts in known[node.graph].values():
                packing.update({op: (parts.count // each.count, each) for op, each in parts.packing.items()})
                passing.update(parts.passing)
        return known[node.graph]

    def written(op: OpOverload) -> Callable[..., Any]:
        theirs = table[op]

        def lower(*args: Any, **options: Any) -> Any:
            node, value = V.graph.current_node, theirs(*args, **options)
            parts = planned(node).get(node) if node.target is op else None
            if parts is None:
                return value
            static = all(getattr(size, "is_number", True) for size in value.get_size())
            even = static and int(value.get_size()[0]) % parts.count == 0
            made = _in_parts(value, parts.count) if even else None
            if made is None:
                for packer in parts.packing:
                    packing.pop(packer, None)
                passing.difference_update(parts.passing)
                return value
            values[node] = value
            orders.update({op: [made[1][dim] for dim in each.order] for op, each in parts.packing.items()})
            return made[0]

        return lower

    def le_of(x: Any, other: Any) -> Any:
        node = V.graph.current_node  # some other op, if its lowering compares
        return le(values.get(node.args[0], x) if node.target is aten.le.Scalar else x, other)

    def kept(self: Any, *args: Any, **options: Any) -> bool:
        return V.graph.current_node not in passing and bool(keeps(self, *args, **options))

    def reused_of(codes: lowered.Value) -> lowered.Value:
        planned(V.graph.current_node)
        return codes.whole or codes if V.graph.current_node in packing else reused(codes)

    def apart_of(x: lowered.Value, *given: int) -> list[lowered.Value]:
        planned(V.graph.current_node)
        return [x] if V.graph.current_node in packing else _tiles_apart(x, *given)

    def in_order_of(codes: lowered.Value, like: lowered.Value) -> lowered.Value:
        op = V.graph.current_node
        if op not in packing:
            return in_order(codes, like)
        made = _in_parts(codes.box, packing[op][0], orders.get(op)) if packing[op][0] > 1 else None
        if made is None and op in orders:
            return lowered.Value(ir.ExternKernel.require_stride_order(codes.box, orders[op]))
        return lowered.Value(made[0]) if made else in_order(codes, like)

    with (
        mock.patch.dict(table, {**{op: written(op) for op in POINTWISE.values()}, aten.le.Scalar: le_of}),
        mock.patch.object(ir.StorageBox, "should_realize_on_reuse", kept),
        mock.patch.dict(lowered.FUNCTIONS, reused=reused_of, apart=apart_of, in_order=in_order_of),
    ):
        yield
