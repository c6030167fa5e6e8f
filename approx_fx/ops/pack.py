"""Packing codes of 1 to 8 bits into bytes, along one dimension.

With f codes per byte and a packed dimension of length L, a byte holds codes that are L / f apart, not neighbours. Then
packing and unpacking are elementwise on whole slices, stay contiguous in any memory format, and fuse with producers.

A width that is no power of two is split into planes that are, stored one behind the other: 3 = 2 + 1, 5 = 4 + 1.

Functions that call `has_torch_function` are hooks for Inductor: on tensors they follow their docstrings, and
`inductor.ir_tensor` lowers them in a way of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

PLANES: dict[int, tuple[int, ...]] = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def multiple(bits: int) -> int:
    """The packed dimension is padded to a multiple of this: the number of codes in a byte of the narrowest plane."""
    return 8 // min(PLANES[bits])


def padded_length(length: int, bits: int) -> int:
    """The length of the packed dimension before packing, padding included."""
    unit = multiple(bits)
    return (length + unit - 1) // unit * unit


def packed_length(length: int, bits: int) -> int:
    """The length of the packed dimension, in bytes, after packing."""
    return padded_length(length, bits) * bits // 8


def pack_dim(shape: Sequence[int], bits: int) -> int:
    """The dimension of `shape` to pack along: the one with the least padding; among equals, the first of fixed size."""
    unit = multiple(bits)

    def waste(dim: int) -> float:
        size = shape[dim]
        if not isinstance(size, int):
            return 0.5 if unit > 1 else 0.0
        return padded_length(size, bits) / size - 1 if size else 0.0

    return min(range(len(shape)), key=lambda dim: (waste(dim), not isinstance(shape[dim], int), dim), default=0)


def memory_order(x: Tensor) -> list[int]:
    """The dimensions of x from the outermost to the innermost in memory; row-major if any is expanded or empty.

    A dimension of length 1 goes behind one of the same stride, so that `empty_in_order` and packing keep its place.
    """
    stride, shape = x.stride(), x.shape
    if any(shape[dim] == 0 or (stride[dim] == 0 and shape[dim] != 1) for dim in range(x.ndim)):
        return list(range(x.ndim))
    return sorted(range(x.ndim), key=lambda dim: (-stride[dim], bool(shape[dim] == 1), dim))


def dense_strides(shape: Sequence[int], order: Sequence[int]) -> list[int]:
    """The strides of a dense tensor of this shape. order: its dimensions from the outermost to the innermost."""
    strides, size = [1] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = size
        size = size * max(shape[dim], 1)
    return strides


def empty_in_order(x: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An empty dense tensor of this shape and dtype in the memory order of x, which is the layout that ops return."""
    return x.new_empty_strided(shape, dense_strides(shape, memory_order(x)), dtype=dtype)


def _with_order(result: Tensor, order: Sequence[int]) -> Tensor:
    """`result` as a dense tensor with its dimensions in this order in memory, copied if it is not one already."""
    if list(result.stride()) == dense_strides(result.shape, order):
        return result
    inverse = [order.index(dim) for dim in range(len(order))]
    return result.permute(*order).clone(memory_format=torch.contiguous_format).permute(inverse)


def as_memory_order_of(result: Tensor, x: Tensor) -> Tensor:
    """`result`, dense in the memory order of x. Seldom a copy, because elementwise ops keep their input's order."""
    if has_torch_function((result,)):
        return handle_torch_function(as_memory_order_of, (result,), result, x)  # type: ignore[no-any-return]
    return _with_order(result, memory_order(x))


def as_contiguous(result: Tensor) -> Tensor:
    """`result` with row-major strides as `torch.empty` gives, also along dimensions of length 1."""
    if has_torch_function((result,)):
        return handle_torch_function(as_contiguous, (result,), result)  # type: ignore[no-any-return]
    return _with_order(result, range(result.ndim))


def arange_like(x: Tensor, stop: int, step: int, dtype: torch.dtype) -> Tensor:
    """0, step, 2 step, ... below `stop`, on x's device."""
    if has_torch_function((x,)):
        return handle_torch_function(arange_like, (x,), x, stop, step, dtype)  # type: ignore[no-any-return]
    return torch.arange(0, stop, step, dtype=dtype, device=x.device)


def rounded_to_storage(scale: Tensor) -> Tensor:
    """`scale`, rounded to its dtype. Compiler hook: a scale kept in a register may have more digits than its dtype."""
    if has_torch_function((scale,)):
        return handle_torch_function(rounded_to_storage, (scale,), scale)  # type: ignore[no-any-return]
    return scale


def materialization_hint(values: Tensor) -> Tensor:
    """`values`, which have several readers. Compiler hook: decides whether to materialize or to recompute them."""
    if has_torch_function((values,)):
        return handle_torch_function(materialization_hint, (values,), values)  # type: ignore[no-any-return]
    return values


def split_by_byte(x: Tensor, bits: int, dim: int, tile: int) -> list[Tensor]:
    """[x]. Compiler hook: may return the slices of x along `dim` whose codes share bytes, to write whole bytes at once.

    bits: the width of a code. tile: how many neighbours along `dim` have to stay in one slice.
    """
    if has_torch_function((x,)):
        return handle_torch_function(split_by_byte, (x,), x, bits, dim, tile)  # type: ignore[no-any-return]
    return [x]


def clamp_code(codes: Tensor, low: int, high: int) -> Tensor:
    """Float codes clamped to [low, high]; a NaN becomes `low`."""
    # a comparison, not isnan, which Inductor's C++ computes one element at a time
    return torch.where(codes > low, codes, float(low)).clamp_max(high)


def pack(codes: Tensor, bits: int, dim: int) -> Tensor:
    """Pack uint8 codes in [0, 2**bits) along `dim`: length L becomes packed_length(L, bits), dtype uint8.

    One-bit codes may be bool. The codes of a byte are added up as float32, which is exact: on a CPU, shifts of bytes
    take dozens of instructions, and conversions to bytes from bool, or from int32 on AVX2, are not vectorized.
    """
    if bits == 8:
        return codes
    length = codes.shape[dim]
    padding = padded_length(length, bits) - length
    if padding:
        codes = torch.nn.functional.pad(codes, [0, 0] * (codes.ndim - 1 - dim) + [0, padding])
    codes, total = materialization_hint(codes), length + padding
    packed, shift = [], 0
    for width in PLANES[bits]:
        plane = codes >> shift if shift else codes
        plane = plane if width == bits else plane & (2**width - 1)
        step = total * width // 8
        parts = [plane.narrow(dim, index * step, step) for index in range(8 // width)]
        packed.append(_byte(parts, width).to(torch.uint8))
        shift += width
    return packed[0] if len(packed) == 1 else torch.cat(packed, dim)


def pack_by_byte(parts: Sequence[Tensor], bits: int, dim: int) -> Tensor:
    """Pack float codes along `dim`. parts: the codes of each slice that `split_by_byte` returned, in its order."""
    if len(parts) == 1:
        return pack(parts[0].to(torch.uint8), bits, dim)
    return _byte(parts, bits).to(torch.uint8)


def _byte(parts: Sequence[Tensor], width: int) -> Tensor:
    """Bytes as float32; part k of `parts` holds the code of `width` bits at bit k * width."""
    byte = parts[0].to(torch.float32)
    for index, part in enumerate(parts[1:], 1):
        byte = byte + part.to(torch.float32) * float(2 ** (index * width))
    return byte


def unpack(packed: Tensor, bits: int, dim: int, length: int) -> Tensor:
    """The int32 codes that `pack` packed. length: size of `dim` before packing.

    The shifts lie along an outer dimension, so that in a fused loop a shift is an index and nothing is copied.
    """
    total = padded_length(length, bits)
    codes, shift, start = None, 0, 0
    for width in PLANES[bits]:
        step, parts = total * width // 8, 8 // width
        byte = packed.narrow(dim, start, step).to(torch.int32)
        if parts > 1:
            along_dim = [-1 if index == dim else 1 for index in range(packed.ndim + 1)]
            shifts = arange_like(packed, 8, width, torch.int32).reshape(along_dim)
            byte = ((byte.unsqueeze(dim) >> shifts) & (2**width - 1)).flatten(dim, dim + 1)
        plane = byte << shift if shift else byte
        codes = plane if codes is None else codes | plane
        shift, start = shift + width, start + step
    assert codes is not None
    return codes.narrow(dim, 0, length) if total != length else codes
