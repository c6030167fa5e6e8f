"""torch._inductor's C++: a ReLU is written in as many parts as a byte holds of its codes, all in one loop.

A byte holds codes that lie far apart, see `ops.pack`. Inductor's loop over a ReLU writes them one by one, as bytes, and
a second loop packs these. Here the ReLU is a cat of parts that are written side by side, in one loop that makes each
byte of the codes it has at hand. No value is computed in another way: the forward is the same, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
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
# Parts at most. On a CPU eight, a mask's, were measured to be no faster; a GPU reads them from memory side by side.
MOST = {"cpu": 4, "cuda": 8}
# What is computed element by element from values of the same shape, on the way to a ReLU.
POINTWISE = frozenset({"aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "prims.convert_element_type.default"})


def parts_of(node: fx.Node, ours: Collection[Any]) -> int:
    """How many values one of `ours` packs into a byte, from as many parts of its first dimension; 0 for anything else.

    Anything else is also what packs along another dimension, pads, or splits a code over several bytes.
    """
    target, codes = node.target, node.meta.get("val")
    if target not in ours or not isinstance(target, OpOverload) or not isinstance(codes, torch.Tensor):
        return 0
    given = dict(zip([argument.name for argument in target._schema.arguments], node.args, strict=False))
    bits, values = given.get("bits", 1 if "mask" in given else None), given.get("x", given.get("mask"))
    if given.get("pack_dim") != 0 or not isinstance(bits, int) or not isinstance(values, fx.Node) or 8 % bits:
        return 0
    count, length = 8 // bits, values.meta["val"].shape[0]
    return count if isinstance(length, int) and length == count * codes.shape[0] > 0 else 0


@dataclass(frozen=True)
class Packing:
    """An op that packs codes of a ReLU's inputs, or its mask. count: codes a byte; order: of dimensions, as it does."""

    count: int
    order: Sequence[int]


@dataclass(frozen=True)
class Parts:
    """count: how many; packing: the ops whose bytes are made of them."""

    count: int
    packing: Mapping[fx.Node, Packing]


def _seen(node: fx.Node) -> Iterator[tuple[fx.Node, Sequence[int]]]:
    """Who reads a node, and in which order of its dimensions: as it is, or permuted with the first one first."""
    plain = range(node.meta["val"].ndim)
    for user in node.users:
        order: Any = user.args[1] if user.target is aten.permute.default else ()
        if order and order[0] == 0:
            yield from ((reader, order) for reader in user.users)
        else:
            yield user, plain


def _sources(relu: fx.Node) -> Iterator[fx.Node]:
    """What a ReLU is computed from, element by element, back to what is read from memory."""
    shape, todo = relu.meta["val"].shape, list(relu.all_input_nodes)
    found: set[fx.Node] = set()
    while todo:
        node = todo.pop()
        value = node.meta.get("val")
        if node not in found and isinstance(value, torch.Tensor) and value.shape == shape:
            found.add(node)
            yield node
            if str(node.target) in POINTWISE:
                todo.extend(node.all_input_nodes)


def parted(graph: fx.Graph, ours: Collection[Any]) -> dict[fx.Node, Parts]:
    """The ReLUs to be written in parts: those that are written, and whose sign goes into codes of what they come from.

    On a CPU not those whose mask is kept as it is, nor those that are coded themselves. On a GPU with the mask, and
    with codes of what they come from that do not hold the sign: a residual block's.
    """
    found: dict[fx.Node, Parts] = {}
    taken: set[fx.Node] = set()
    for relu in graph.find_nodes(op="call_function", target=aten.relu.default):
        signs = [node for node in relu.users if node.target is aten.le.Scalar]
        turned = [node for sign in signs for node in sign.users if node.target is aten.logical_not.default]
        seen = {node: order for sign in (*signs, *turned) for node, order in _seen(sign) if node not in turned}
        packing = {node: Packing(parts_of(node, ours), order) for node, order in seen.items()}
        place = relu.meta["val"].device.type if "val" in relu.meta else "cpu"
        if place != "cpu":
            packing = {node: each for node, each in packing.items() if each.count}
            for source in _sources(relu):
                also = {node: Packing(parts_of(node, ours), order) for node, order in _seen(source)}
                packing.update({n: each for n, each in also.items() if each.count and n not in packing})
        counts = {each.count for each in packing.values()} if taken.isdisjoint(packing) else {0}
        read = any(str(node.target) in READERS for node in relu.users)
        even = place != "cpu" or len(counts) == 1
        if read and even and 1 < max(counts, default=0) <= MOST.get(place, 0) and min(counts):
            found[relu] = Parts(max(counts), packing)
            taken.update(packing)
    return found


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
    # What packs codes -> how many parts its bytes are made in, and how it packs.
    packing: dict[Any, tuple[int, Packing]] = {}
    orders: dict[Any, Sequence[int]] = {}  # what packs codes -> the order in memory, where the ReLU comes first

    def planned(node: Any) -> dict[fx.Node, Parts]:
        if node.graph not in known:
            known[node.graph] = parted(node.graph, ours)
            for parts in known[node.graph].values():
                packing.update({op: (parts.count // each.count, each) for op, each in parts.packing.items()})
        return known[node.graph]

    def relu_of(x: Any) -> Any:
        node, value = V.graph.current_node, relu(x)
        parts = planned(node).get(node)
        if parts is None:
            return value
        static = all(getattr(size, "is_number", True) for size in value.get_size())
        made = _in_parts(value, parts.count) if static else None
        if made is None:
            for op in parts.packing:
                del packing[op]
            return value
        values[node] = value
        orders.update({op: [made[1][dim] for dim in each.order] for op, each in parts.packing.items()})
        return made[0]

    def le_of(x: Any, other: Any) -> Any:
        node = V.graph.current_node  # some other op, if its lowering compares
        return le(values.get(node.args[0], x) if node.target is aten.le.Scalar else x, other)

    def reused_of(codes: lowered.Value) -> lowered.Value:
        planned(V.graph.current_node)
        return codes.whole or codes if V.graph.current_node in packing else reused(codes)

    def in_order_of(codes: lowered.Value, like: lowered.Value) -> lowered.Value:
        op = V.graph.current_node
        if op not in packing:
            return in_order(codes, like)
        made = _in_parts(codes.box, packing[op][0], orders.get(op)) if packing[op][0] > 1 else None
        if made is None and op in orders:
            return lowered.Value(ir.ExternKernel.require_stride_order(codes.box, orders[op]))
        return lowered.Value(made[0]) if made else in_order(codes, like)

    with (
        mock.patch.dict(table, {aten.relu.default: relu_of, aten.le.Scalar: le_of}),
        mock.patch.dict(lowered.FUNCTIONS, reused=reused_of, in_order=in_order_of),
    ):
        yield
