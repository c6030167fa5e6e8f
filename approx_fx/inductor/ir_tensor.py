"""`IRTensor`, a stand-in for tensors: an op's reference, called on it, builds Inductor's IR.

Its operations are Inductor's own lowerings of aten, by the tables below. Codes before packing, and scales, are always
materialized: see `_materialization_hint` and `_rounded_to_storage`.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from .ir import strides_of
from .output_layout import is_laid_out_as_traced

aten = torch.ops.aten
Functions = Mapping[str, Callable[..., Any]]


def call(op: OpOverload, *args: Any, **options: Any) -> IRTensor:
    """Call Inductor's lowering of `op` on `IRTensor`s and plain arguments."""
    from torch._inductor.lowering import lowerings

    functions = next((item.functions for item in _tensors(args)), FUNCTIONS)
    return IRTensor(lowerings[op](*[box_of(item) for item in args], **options), functions)


def _tensors(args: Sequence[Any]) -> list[IRTensor]:
    return [item for item in args if isinstance(item, IRTensor)]


def box_of(item: Any) -> Any:
    """The TensorBox of an IRTensor, also of those in lists; any other item as it is."""
    if isinstance(item, list):
        return [box_of(entry) for entry in item]
    return item.box if isinstance(item, IRTensor) else item


class IRTensor:
    """A stand-in for a tensor of static shape while a reference is lowered. Its methods are those of a tensor.

    Inductor chooses the layout.

    box: Inductor's TensorBox. functions: name of a function -> its implementation for IRTensors; `FUNCTIONS` or a
    variant, passed on to results. as_float: the float32 tensor that a uint8 tensor was cast from, if it was.
    """

    def __init__(self, box: Any, functions: Functions, as_float: IRTensor | None = None) -> None:
        self.box, self.functions, self.as_float = box, functions, as_float

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), options: Any = None) -> Any:
        operands = args[0] if isinstance(args[0], (list, tuple)) else args
        functions = next((item.functions for item in _tensors(operands)), FUNCTIONS)
        if function.__name__ in functions:
            return functions[function.__name__](*args, **(options or {}))
        return getattr(args[0], function.__name__)(*args[1:], **(options or {}))

    def __getattr__(self, name: str) -> Callable[..., IRTensor]:
        if name not in METHODS:
            raise AttributeError(f"no lowering is known for Tensor.{name}; add it to METHODS in {__name__}")
        op = getattr(aten, name).default
        return lambda *args, **options: call(op, self, *args, **options)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.box.get_size())

    @property
    def ndim(self) -> int:
        return len(self.box.get_size())

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.box.get_dtype()
        return dtype

    def numel(self) -> int:
        return math.prod(self.shape)

    def to(self, dtype: torch.dtype, copy: bool = False) -> IRTensor:
        """As `Tensor.to`; `copy` has no effect, because an IR value has no memory of its own."""
        result = call(torch.ops.prims.convert_element_type.default, self, dtype)
        to_bytes = (self.dtype, dtype) == (torch.float32, torch.uint8)
        return IRTensor(result.box, self.functions, self) if to_bytes else result

    def float(self) -> IRTensor:
        return self.to(torch.float32)

    def contiguous(self) -> IRTensor:
        """The tensor itself, because Inductor chooses the layout."""
        return self

    def clamp(self, low: Any, high: Any) -> IRTensor:
        """As `Tensor.clamp`; both bounds are required."""
        return call(aten.clamp_max.default, call(aten.clamp_min.default, self, low), high)

    def reshape(self, *shape: Any) -> IRTensor:
        return call(aten.reshape.default, self, list(shape[0] if isinstance(shape[0], (list, tuple)) else shape))

    def flatten(self, first: int, last: int) -> IRTensor:
        """As `Tensor.flatten`; both dimensions are non-negative."""
        shape = self.shape
        return self.reshape([*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]])

    def unflatten(self, dim: int, sizes: Sequence[int]) -> IRTensor:
        return self.reshape([*self.shape[:dim], *sizes, *self.shape[dim + 1 :]])

    def narrow(self, dim: int, start: int, length: int) -> IRTensor:
        return call(aten.slice.Tensor, self, dim, start, start + length)

    def view(self, dtype: torch.dtype) -> IRTensor:
        """As `Tensor.view(dtype)`: the same bits, read as another dtype of the same size."""
        return call(aten.view.dtype, self, dtype)

    def amax(self, dims: list[int], keepdim: bool) -> IRTensor:
        return _hint_inner_reduction(call(aten.amax.default, self, dims, keepdim), self, dims)

    def amin(self, dims: list[int], keepdim: bool) -> IRTensor:
        return _hint_inner_reduction(call(aten.amin.default, self, dims, keepdim), self, dims)

    def sum(self, dims: list[int] | None = None, keepdim: bool = False) -> IRTensor:
        return call(aten.sum.dim_IntList, self, dims, keepdim)

    def __getitem__(self, index: int) -> IRTensor:
        return call(aten.select.int, self, 0, index)

    def __rsub__(self, other: Any) -> IRTensor:
        return call(aten.sub.Tensor, other, self)

    def __rtruediv__(self, other: Any) -> IRTensor:
        inverse = call(aten.reciprocal.default, self)
        return inverse if other == 1 else inverse * other


# Operator -> the aten op that takes the same arguments.
OPERATORS = {
    "__add__": aten.add.Tensor,
    "__radd__": aten.add.Tensor,
    "__sub__": aten.sub.Tensor,
    "__mul__": aten.mul.Tensor,
    "__rmul__": aten.mul.Tensor,
    "__truediv__": aten.div.Tensor,
    "__rshift__": aten.__rshift__.Tensor,
    "__lshift__": aten.__lshift__.Scalar,
    "__and__": aten.bitwise_and.Scalar,
    "__or__": aten.bitwise_or.Tensor,
    "__xor__": aten.bitwise_xor.Tensor,
    "__invert__": aten.bitwise_not.default,
    "__eq__": aten.eq.Scalar,
    "__lt__": aten.lt.Scalar,
    "__le__": aten.le.Scalar,
    "__gt__": aten.gt.Scalar,
    "__ge__": aten.ge.Tensor,
}
# Methods of a tensor that take what the aten op of their name takes.
METHODS = frozenset(
    ["abs", "ceil", "clamp_max", "clamp_min", "clone", "floor", "maximum", "minimum", "round", "sigmoid", "unsqueeze"]
)


def _operator(op: OpOverload) -> Callable[..., IRTensor]:
    return lambda self, *other: call(op, self, *other)


for _name, _op in OPERATORS.items():
    setattr(IRTensor, _name, _operator(_op))


def _hint_inner_reduction(result: IRTensor, x: IRTensor, dims: Sequence[int]) -> IRTensor:
    """On a GPU, mark a reduction along contiguous memory as an inner reduction. result: the reduction of x over dims.

    Inductor keeps a row in registers, and so reads it once, if it sees that the row's elements are contiguous. It does
    not see that behind an offset, as in the second of two slices whose codes share bytes.
    """
    from torch._inductor.ir import Reduction
    from torch._inductor.runtime.hints import ReductionHint

    if x.box.get_device().type == "cpu":
        return result
    reduction = result.box.data
    while not isinstance(reduction, Reduction) and hasattr(reduction, "data"):
        reduction = reduction.data
    if isinstance(reduction, Reduction) and reduction.reduction_hint == ReductionHint.DEFAULT:
        strides = strides_of(x.box)
        if strides and 1 in [strides[dim] for dim in dims]:
            object.__setattr__(reduction, "reduction_hint", ReductionHint.INNER)  # the dataclass is frozen
    return result


def _where(condition: IRTensor, one: Any, other: Any) -> IRTensor:
    if not isinstance(one, IRTensor) and not isinstance(other, IRTensor):
        one = _full_like(condition, one, torch.float32)
    return call(aten.where.self, condition, one, other)


def _full_like(like: IRTensor, value: float, dtype: torch.dtype | None = None) -> IRTensor:
    device = like.box.get_device()
    return call(aten.full.default, list(like.shape), value, dtype=dtype or like.dtype, device=device)


def _cat(values: Sequence[IRTensor], dim: int) -> IRTensor:
    """Concatenate by writing each part to its place; Inductor's lowering of aten.cat copies uint8 once more."""
    from torch._inductor.ir import ConcatKernel, TensorBox
    from torch._inductor.virtualized import V

    # ConcatKernel inspects the current node's list of operands, which torch 2.11 takes for the parts; ours has none.
    empty_node: Any = types.SimpleNamespace(args=([],))
    with V.graph.set_current_node(empty_node):
        cat = TensorBox(ConcatKernel.create([value.box for value in values], dim))
    return IRTensor(cat, values[0].functions)


def _arange_like(like: IRTensor, stop: int, step: int, dtype: torch.dtype) -> IRTensor:
    options = {"start": 0, "step": step, "dtype": dtype, "device": like.box.get_device(), "requires_grad": False}
    return call(torch.ops.prims.iota.default, len(range(0, stop, step)), **options)


def _rounded_to_storage(scale: IRTensor) -> IRTensor:
    scale.box.realize()
    return scale


def _materialization_hint(values: IRTensor) -> IRTensor:
    """Materialize uint8 codes: the packing loop would else recompute them once for each of a byte's codes.

    Where convolutions are channels-last, so are the codes, which can then be written in the loop of their source.
    """
    from torch._inductor import ir
    from torch._inductor.virtualized import V
    from torch._prims_common import make_channels_last_strides_for

    node = V.graph.current_node
    if values.dtype != torch.uint8:
        values.box.mark_reuse(2)
    elif values.ndim == 4 and node in V.graph.nodes_prefer_channels_last and not is_laid_out_as_traced(node):
        order = ir.get_stride_order(make_channels_last_strides_for(values.shape))
        return IRTensor(ir.ExternKernel.require_stride_order(values.box, order), values.functions)
    else:
        values.box.realize()
    return values


def _split_by_byte(x: IRTensor, bits: int, dim: int, tile: int) -> list[IRTensor]:
    """On a GPU the slices whose codes share bytes, if each holds whole tiles; else [x].

    One kernel can then reduce the slices and write packed bytes; else one would write codes and another pack them.
    """
    count = 8 // bits if 8 % bits == 0 else 1
    if x.box.get_device().type == "cpu" or count == 1 or dim != 0 or x.shape[0] % (count * tile):
        return [x]
    step = x.shape[0] // count
    return [x.narrow(0, start, step) for start in range(0, x.shape[0], step)]


# Name of a function -> its implementation for IRTensors; a function that is not listed calls the method of its name.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "where": _where,
    "stack": lambda values: _cat([value.unsqueeze(0) for value in values], 0),
    "cat": _cat,
    "pad": lambda values, sizes, mode, value: call(aten.constant_pad_nd.default, values, sizes, value or 0),
    "full_like": _full_like,
    "ones_like": lambda like: _full_like(like, 1.0),
    "zeros_like": lambda like: _full_like(like, 0.0),
    "split_by_byte": _split_by_byte,
    "arange_like": _arange_like,
    "rounded_to_storage": _rounded_to_storage,
    "materialization_hint": _materialization_hint,
    "as_memory_order_of": lambda result, like: result,
    "as_contiguous": lambda result: result,
}
