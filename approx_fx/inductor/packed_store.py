"""A value is stored in as many parts as a byte holds of its codes, in one loop that also makes the bytes.

A byte holds codes that lie far apart, see `ops.pack`. Inductor's loop over a ReLU writes them one by one, as bytes, and
a second loop packs these. Here the ReLU is a cat of parts that are written side by side, in one loop that makes each
byte of the codes it has at hand. No value is computed in another way: the forward is the same, bit for bit.

The value, what is computed on the way to it, and the ops that pack become one node, whose target is a
`PackedStoreRegion`: Inductor calls it with its IR, as it calls the lowerings of its own pattern matcher.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from ..joint.packed_stores import Packing
from ..ops import reference_of
from .ir import strides_of
from .ir_tensor import FUNCTIONS, Functions, IRTensor
from .lowering import lower_reference

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class PackedStoreRegion:
    """The nodes of one packed store, as a lowering: from the IR of its inputs, in order, to that of its outputs.

    graph: a placeholder for each input, and an output that lists the outputs; value: what is stored in `count` parts.
    packing: the ops that pack, and how. reused: nodes read more than once from outside.
    """

    graph: fx.Graph
    value: fx.Node
    count: int
    packing: Mapping[fx.Node, Packing]
    reused: Mapping[fx.Node, int]
    _inductor_lowering_function = True  # torch's mark of a target that is its own lowering
    __name__ = "packed_store"

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """Lower node by node; nothing that only the region reads gets memory of its own."""
        from torch._inductor import ir
        from torch._inductor.lowering import lowerings

        values = dict(zip(self.graph.find_nodes(op="placeholder"), inputs, strict=True))
        orders: dict[fx.Node, Sequence[int]] = {}
        stored: Any = None
        for node in self.graph.nodes:
            if node.op != "call_function":
                continue
            args = fx.map_arg(node.args, values.__getitem__)
            options = fx.map_arg(node.kwargs, values.__getitem__)
            if node in self.packing:
                parts = self.count // self.packing[node].count if stored is not None else 0
                functions = _functions(parts, orders.get(node)) if parts else FUNCTIONS
                reference: Any = reference_of(node.target)
                values[node] = lower_reference(reference, args, options, functions)
                continue
            lower: Any = operator.getitem if node.target is operator.getitem else lowerings[node.target]
            values[node] = lower(*args, **options)
            if node is self.value:
                made = _store_in_parts(values[node], self.count)
                if made is not None:
                    stored, order = made
                    orders = {op: [order[dim] for dim in how.order] for op, how in self.packing.items()}
            elif node in self.reused and isinstance(values[node], ir.TensorBox):
                values[node].mark_reuse(self.reused[node])
        if stored is None and self.value in self.reused:
            values[self.value].mark_reuse(self.reused[self.value])
        output: Any = next(iter(self.graph.find_nodes(op="output"))).args[0]
        return tuple(stored if node is self.value and stored is not None else values[node] for node in output)

    def _inductor_lowering_output_metadata_fn(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What it returns for fake tensors, by the name that torch 2.15 asks for."""
        result: tuple[torch.Tensor, ...] = fx.Interpreter(fx.GraphModule(nn.Module(), self.graph)).run(*inputs)
        return result


def _functions(parts: int, order: Sequence[int] | None) -> Functions:
    """What a packing op's reference calls: codes are not kept as bytes, and the packed bytes are stored in parts.

    order: of the bytes' dimensions in memory, where the value they go with is stored first.
    """
    from torch._inductor import ir

    def as_memory_order_of(codes: IRTensor, like: IRTensor) -> IRTensor:
        stored = _store_in_parts(codes.box, parts, order) if parts > 1 else None
        if stored is not None:
            return IRTensor(stored[0], codes.functions)
        if order is not None:
            return IRTensor(ir.ExternKernel.require_stride_order(codes.box, list(order)), codes.functions)
        return codes

    return {
        **FUNCTIONS,
        "materialization_hint": lambda codes: codes.as_float or codes,
        "split_by_byte": lambda x, *_: [x],
        "as_memory_order_of": as_memory_order_of,
    }


def _store_in_parts(value: Any, count: int, order: Sequence[int] | None = None) -> tuple[Any, Sequence[int]] | None:
    """Inductor's value in memory, as a cat of `count` parts, and its order there.

    order: by default that of the buffer it reads; None is returned if it reads no buffer whole.
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
