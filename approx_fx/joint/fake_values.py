"""Properties of a node's value, read off its fake tensor: size in bytes, kind of dtype, memory order."""

from __future__ import annotations

import math

import torch
from torch import fx


def tensor(node: fx.Node) -> torch.Tensor | None:
    """The node's fake tensor, or None if its value is not a single tensor."""
    value = node.meta.get("val")
    return value if isinstance(value, torch.Tensor) else None


def is_size(node: fx.Node) -> bool:
    """Whether the node's value is a SymInt, SymFloat or SymBool."""
    return isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool))


def numel(value: torch.Tensor) -> int:
    """Number of elements; a symbolic size counts with the size it was traced with."""
    return math.prod(map(hint, value.shape))


def shape(value: fx.Node | torch.Tensor | None) -> tuple[object, ...] | None:
    """The shape for comparisons; a symbolic size is its expression as text, so that comparing adds no guard.

    None for a node whose value is not a single tensor.
    """
    fake = tensor(value) if isinstance(value, fx.Node) else value
    return None if fake is None else tuple(map(_comparable, fake.shape))


def _comparable(size: object) -> int | str:
    """A size as a number where it is one, also if torch holds it as a symbolic constant; else its expression."""
    text = str(size)
    return int(text) if text.isdigit() else text


def varies(value: torch.Tensor) -> bool:
    """Return True if at least one dimension of the tensor has a symbolic size."""
    return not all(isinstance(size, int) for size in value.shape)


def sizes(value: torch.Tensor) -> tuple[int, ...]:
    """The shape as numbers; a symbolic size is the size it was traced with."""
    return tuple(map(hint, value.shape))


def strides(value: torch.Tensor) -> tuple[int, ...]:
    """The strides as numbers; a symbolic stride is that of the size it was traced with."""
    return tuple(map(hint, value.stride()))


def nbytes(node: fx.Node) -> int:
    """Bytes of the node's tensor, not encoded; 0 if its value is not a single tensor."""
    value = tensor(node)
    return 0 if value is None else numel(value) * value.element_size()


def is_float(node: fx.Node) -> bool:
    """Whether the value is a strided tensor of a real floating point dtype of 16 bits or more."""
    value = tensor(node)
    return (
        value is not None
        and value.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        and value.layout == torch.strided
    )


def is_bool(node: fx.Node) -> bool:
    """Whether the value is a bool tensor."""
    value = tensor(node)
    return value is not None and value.dtype == torch.bool


def is_whole(dtype: torch.dtype) -> bool:
    """Whether a dtype is an integer type; bool is none."""
    return not dtype.is_floating_point and not dtype.is_complex and dtype != torch.bool


def memory_order(value: torch.Tensor) -> list[int] | None:
    """The dimensions from outermost to innermost in memory; None if the tensor is not dense and non-overlapping."""
    order = sorted(range(value.ndim), key=lambda dim: (-hint(value.stride(dim)), dim))
    expected = 1
    for dim in reversed(order):
        if hint(value.shape[dim]) != 1 and hint(value.stride(dim)) != expected:
            return None
        expected *= hint(value.shape[dim])
    return order


def hint(size: object) -> int:
    """A size as a number; a symbolic one is the size it was traced with."""
    return size if isinstance(size, int) else int(getattr(getattr(size, "node", None), "hint", None) or 1)
