"""torch._inductor.lowering: ops of our own as Inductor's IR, straight from their references.

Traced to aten, one op is 20 to 40 nodes, and every pass over a graph, and the lowering, do their work for each. Here
the reference is called on stand-ins for tensors, which hold values of Inductor's IR, and whose operations are
Inductor's own lowerings of aten. Codes before packing, and scales, are always kept: see `reused` and `as_stored`.
"""

from __future__ import annotations

import contextlib
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch._ops import OpOverload
from torch.utils._pytree import tree_map

aten = torch.ops.aten


def call(op: OpOverload, *args: Any, **options: Any) -> Value:
    """Inductor's lowering of `op`, for stand-ins and plain arguments."""
    from torch._inductor.lowering import lowerings

    return Value(lowerings[op](*[_box(item) for item in args], **options))


def _box(item: Any) -> Any:
    if isinstance(item, list):
        return [_box(part) for part in item]
    return item.box if isinstance(item, Value) else item


class Value:
    """Stands for a tensor of known shape. box: Inductor's TensorBox. Its layout is Inductor's to choose.

    whole: the same whole numbers as float32, if bytes were made of them.
    """

    def __init__(self, box: Any, whole: Value | None = None) -> None:
        self.box, self.whole = box, whole

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), options: Any = None) -> Any:
        own = FUNCTIONS.get(function.__name__)
        if own is None:
            return getattr(args[0], function.__name__)(*args[1:], **(options or {}))
        return own(*args, **(options or {}))

    def __getattr__(self, name: str) -> Callable[..., Value]:
        if name not in METHODS:
            raise AttributeError(f"no lowering is known for Tensor.{name}; add it to METHODS in {__name__}")
        op = METHODS[name]
        return lambda *args, **options: call(op, self, *args, **options)

    @property
    def shape(self) -> tuple[int, ...]:
        """As of a tensor."""
        return tuple(int(size) for size in self.box.get_size())

    @property
    def ndim(self) -> int:
        """As of a tensor."""
        return len(self.box.get_size())

    @property
    def dtype(self) -> torch.dtype:
        """As of a tensor."""
        dtype: torch.dtype = self.box.get_dtype()
        return dtype

    def numel(self) -> int:
        """As of a tensor."""
        return math.prod(self.shape)

    def to(self, dtype: torch.dtype, copy: bool = False) -> Value:
        """As of a tensor; values have no memory that a copy would be needed for."""
        made = call(torch.ops.prims.convert_element_type.default, self, dtype)
        return Value(made.box, self) if (self.dtype, dtype) == (torch.float32, torch.uint8) else made

    def float(self) -> Value:
        """As of a tensor."""
        return self.to(torch.float32)

    def contiguous(self) -> Value:
        """Itself: see `in_order`."""
        return self

    def clamp(self, low: Any, high: Any) -> Value:
        """As of a tensor, with both bounds."""
        return call(aten.clamp_max.default, call(aten.clamp_min.default, self, low), high)

    def reshape(self, *shape: Any) -> Value:
        """As of a tensor."""
        return call(aten.reshape.default, self, list(shape[0] if isinstance(shape[0], (list, tuple)) else shape))

    def flatten(self, first: int, last: int) -> Value:
        """As of a tensor; no dimension is negative."""
        shape = self.shape
        return self.reshape([*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]])

    def unflatten(self, dim: int, sizes: Sequence[int]) -> Value:
        """As of a tensor."""
        return self.reshape([*self.shape[:dim], *sizes, *self.shape[dim + 1 :]])

    def narrow(self, dim: int, start: int, length: int) -> Value:
        """As of a tensor."""
        return call(aten.slice.Tensor, self, dim, start, start + length)

    def view(self, dtype: torch.dtype) -> Value:
        """As of a tensor: its bits, read as another dtype of the same size."""
        return call(aten.view.dtype, self, dtype)

    def amax(self, dims: list[int], keepdim: bool) -> Value:
        """As of a tensor."""
        return call(aten.amax.default, self, dims, keepdim)

    def amin(self, dims: list[int], keepdim: bool) -> Value:
        """As of a tensor."""
        return call(aten.amin.default, self, dims, keepdim)

    def sum(self, dims: list[int] | None = None, keepdim: bool = False) -> Value:
        """As of a tensor."""
        return call(aten.sum.dim_IntList, self, dims, keepdim)

    def __getitem__(self, index: int) -> Value:
        return call(aten.select.int, self, 0, index)

    def __add__(self, other: Any) -> Value:
        return call(aten.add.Tensor, self, other)

    def __mul__(self, other: Any) -> Value:
        return call(aten.mul.Tensor, self, other)

    __radd__, __rmul__ = __add__, __mul__

    def __sub__(self, other: Any) -> Value:
        return call(aten.sub.Tensor, self, other)

    def __rsub__(self, other: Any) -> Value:
        return call(aten.sub.Tensor, other, self)

    def __truediv__(self, other: Any) -> Value:
        return call(aten.div.Tensor, self, other)

    def __rtruediv__(self, other: Any) -> Value:
        inverse = call(aten.reciprocal.default, self)
        return inverse if other == 1 else inverse * other

    def __rshift__(self, other: Any) -> Value:
        return call(aten.__rshift__.Tensor, self, other)

    def __lshift__(self, other: Any) -> Value:
        return call(aten.__lshift__.Scalar, self, other)

    def __and__(self, other: Any) -> Value:
        return call(aten.bitwise_and.Scalar, self, other)

    def __or__(self, other: Any) -> Value:
        return call(aten.bitwise_or.Tensor, self, other)

    def __xor__(self, other: Any) -> Value:
        return call(aten.bitwise_xor.Tensor, self, other)

    def __invert__(self) -> Value:
        return call(aten.bitwise_not.default, self)

    def __eq__(self, other: object) -> Any:
        return call(aten.eq.Scalar, self, other)

    def __lt__(self, other: Any) -> Value:
        return call(aten.lt.Scalar, self, other)

    def __le__(self, other: Any) -> Value:
        return call(aten.le.Scalar, self, other)

    def __gt__(self, other: Any) -> Value:
        return call(aten.gt.Scalar, self, other)

    def __ge__(self, other: Any) -> Value:
        return call(aten.ge.Tensor, self, other)

    __hash__ = object.__hash__


# Tensor method, or function in torch -> the aten op that takes the same arguments.
METHODS = {
    "abs": aten.abs.default,
    "ceil": aten.ceil.default,
    "clamp_max": aten.clamp_max.default,
    "clamp_min": aten.clamp_min.default,
    "clone": aten.clone.default,
    "floor": aten.floor.default,
    "maximum": aten.maximum.default,
    "minimum": aten.minimum.default,
    "round": aten.round.default,
    "sigmoid": aten.sigmoid.default,
    "unsqueeze": aten.unsqueeze.default,
}


def _where(condition: Value, one: Any, other: Any) -> Value:
    if not isinstance(one, Value) and not isinstance(other, Value):
        one = _full_like(condition, one, torch.float32)
    return call(aten.where.self, condition, one, other)


def _full_like(like: Value, value: float, dtype: torch.dtype | None = None) -> Value:
    place = like.box.get_device()
    return call(aten.full.default, list(like.shape), value, dtype=dtype or like.dtype, device=place)


def _cat(values: Sequence[Value], dim: int) -> Value:
    """Each part is written in its place. Inductor's lowering of aten.cat copies bytes once more."""
    from torch._inductor.ir import ConcatKernel, TensorBox
    from torch._inductor.virtualized import V

    # Inductor looks at what the node lists, which in torch 2.11 has to be the cat's parts; ours lists nothing.
    with mock.patch.object(V.graph, "current_node", types.SimpleNamespace(args=([],))):
        return Value(TensorBox(ConcatKernel.create([value.box for value in values], dim)))


def _arange_like(like: Value, stop: int, step: int, dtype: torch.dtype) -> Value:
    options = {"start": 0, "step": step, "dtype": dtype, "device": like.box.get_device(), "requires_grad": False}
    return call(torch.ops.prims.iota.default, len(range(0, stop, step)), **options)


def _as_stored(scale: Value) -> Value:
    scale.box.realize()
    return scale


def _reused(values: Value) -> Value:
    """Codes are kept as bytes: a loop over each of a byte's parts would read again what they are computed from.

    Where convolutions are laid out channels-last, so are the codes, which are then written along with their source.
    """
    from torch._inductor import ir
    from torch._inductor.virtualized import V
    from torch._prims_common import make_channels_last_strides_for

    if values.dtype != torch.uint8:
        values.box.mark_reuse(2)
    elif values.ndim == 4 and V.graph.current_node in V.graph.nodes_prefer_channels_last:
        order = ir.get_stride_order(make_channels_last_strides_for(values.shape))
        return Value(ir.ExternKernel.require_stride_order(values.box, order))
    else:
        values.box.realize()
    return values


# Function -> what it does with stand-ins, where that is not a method's doing.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "where": _where,
    "stack": lambda values: _cat([value.unsqueeze(0) for value in values], 0),
    "cat": _cat,
    "pad": lambda values, sizes, mode, value: call(aten.constant_pad_nd.default, values, sizes, value or 0),
    "full_like": _full_like,
    "ones_like": lambda like: _full_like(like, 1.0),
    "zeros_like": lambda like: _full_like(like, 0.0),
    "apart": lambda x, *_: [x],
    "arange_like": _arange_like,
    "as_stored": _as_stored,
    "reused": _reused,
    "in_order": lambda result, like: result,
    "in_plain_order": lambda result: result,
}


def _lowering(op: OpOverload, reference: Callable[..., Any]) -> Callable[..., Any]:
    from torch._inductor.ir import TensorBox

    def stand_in(item: Any) -> Any:
        return Value(item) if isinstance(item, TensorBox) else item

    def lower(*args: Any, **options: Any) -> Any:
        return tree_map(_box, reference(*map(stand_in, args), **{name: stand_in(v) for name, v in options.items()}))

    return lower


@contextlib.contextmanager
def lowered(references: Mapping[OpOverload, Callable[..., Any]]) -> Iterator[None]:
    """Inductor inside lowers these ops by their references. For one compile at a time."""
    from torch._inductor import lowering

    lowerings: dict[Any, Any] = lowering.lowerings
    before = {op: lowerings[op] for op in references if op in lowerings}
    lowerings.update({op: _lowering(op, reference) for op, reference in references.items()})
    try:
        yield
    finally:
        for op in references:
            del lowerings[op]
        lowerings.update(before)
