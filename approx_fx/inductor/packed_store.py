"""Lowering of a packed store: one loop writes a value and the packed bytes of its codes.

A byte holds codes that are far apart along a dimension, see `ops.pack`. Inductor's loop over a ReLU would write one
code per byte, and a second loop would pack them. Here the ReLU is stored as a concatenation of slices: the loop
computes one element of each slice, and packs their codes into one byte. The forward's results do not change.

The value, the nodes it is computed by, and the ops that pack become one node, whose target is its own lowering.
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
    """The nodes of one packed store as a lowering: called with the IR of its inputs, returns that of its outputs.

    graph: the nodes, with a placeholder per input and a tuple of outputs. value: the node that is stored in `count`
    slices. packing: the ops that pack, and how. readers: nodes that are read from outside -> number of such readers.
    """

    graph: fx.Graph
    value: fx.Node
    count: int
    packing: Mapping[fx.Node, Packing]
    readers: Mapping[fx.Node, int]
    _inductor_lowering_function = True  # torch's mark of a target that is its own lowering
    __name__ = "packed_store"

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """Lower the nodes one by one; a value that is read only inside the region is not materialized."""
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
                slices = self.count // self.packing[node].count if stored is not None else 0
                functions = _functions(slices, orders.get(node)) if slices else FUNCTIONS
                reference: Any = reference_of(node.target)
                values[node] = lower_reference(reference, args, options, functions)
                continue
            lower: Any = operator.getitem if node.target is operator.getitem else lowerings[node.target]
            values[node] = lower(*args, **options)
            if node is self.value:
                result = _store_in_slices(values[node], self.count)
                if result is not None:
                    stored, order = result
                    orders = {op: [order[dim] for dim in how.order] for op, how in self.packing.items()}
            elif node in self.readers and isinstance(values[node], ir.TensorBox):
                values[node].mark_reuse(self.readers[node])
        if stored is None and self.value in self.readers:
            values[self.value].mark_reuse(self.readers[self.value])
        output: Any = next(iter(self.graph.find_nodes(op="output"))).args[0]
        return tuple(stored if node is self.value and stored is not None else values[node] for node in output)

    def _inductor_lowering_output_metadata_fn(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs for fake tensors, by the name that torch 2.15 asks for."""
        result: tuple[torch.Tensor, ...] = fx.Interpreter(fx.GraphModule(nn.Module(), self.graph)).run(*inputs)
        return result


def _functions(slices: int, order: Sequence[int] | None) -> Functions:
    """`FUNCTIONS` for a packing op whose codes are not materialized, and whose bytes are stored in `slices` slices.

    order: stride order of the bytes, given by the value that was stored before them; None if there is none.
    """
    from torch._inductor import ir

    def as_memory_order_of(codes: IRTensor, like: IRTensor) -> IRTensor:
        stored = _store_in_slices(codes.box, slices, order) if slices > 1 else None
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


def _store_in_slices(value: Any, count: int, order: Sequence[int] | None = None) -> tuple[Any, Sequence[int]] | None:
    """Materialize Inductor's value as a concatenation of `count` slices; returns it with its stride order.

    order: the stride order; by default that of the buffer it reads. Returns None if it reads none in full size.
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
    concat: Any = ir.ConcatKernel(name=None, layout=layout, inputs=[])
    box, step = ir.StorageBox(concat), sizes[0] // count
    for start in range(0, sizes[0], step):
        destination = ir.SliceView.create(box, 0, start, start + step, clamp=False)
        source = lowerings[aten.slice.Tensor](value, 0, start, start + step)
        concat.inputs.append(ir.ConcatKernel.realize_into(source, destination))
    concat.name = V.graph.register_buffer(concat)
    concat.inputs = ir.ConcatKernel.unwrap_storage(concat.inputs)
    V.graph.register_operation(concat)
    return ir.TensorBox(box), order
