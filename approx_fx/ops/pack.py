"""Packing codes of 1 to 8 bits into bytes, along one dimension.

A byte holds codes that lie L / f apart along the packed dimension, not neighbours: then both packing and unpacking are
elementwise on whole slices, stay contiguous in any memory format, and fuse with their producers.

A width is a sum of planes, each a power of two wide, stored one behind the other: 3 = 2 + 1, 5 = 4 + 1, 8 = 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

PLANES: dict[int, tuple[int, ...]] = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def multiple(bits: int) -> int:
    """The number that the packed dimension's length is padded to a multiple of."""
    return 8 // min(PLANES[bits])


def padded_length(length: int, bits: int) -> int:
    """The length of the packed dimension before packing, padding included."""
    unit = multiple(bits)
    return (length + unit - 1) // unit * unit


def packed_length(length: int, bits: int) -> int:
    """The length of the packed dimension, in bytes, after packing."""
    return padded_length(length, bits) * bits // 8


def pack_dim(shape: Sequence[int], bits: int) -> int:
    """The dimension that wastes least by padding; of equals the first whose size is no symbol."""
    unit = multiple(bits)

    def waste(dim: int) -> float:
        size = shape[dim]
        if not isinstance(size, int):
            return 0.5 if unit > 1 else 0.0
        return padded_length(size, bits) / size - 1 if size else 0.0

    return min(range(len(shape)), key=lambda dim: (waste(dim), not isinstance(shape[dim], int), dim), default=0)


def memory_order(x: Tensor) -> list[int]:
    """The dimensions of x from the outermost to the innermost in memory; plain order if some are expanded or empty.

    A dimension of length 1 goes behind one of the same stride: there its place survives `empty_in_order` and packing.
    """
    stride, shape = x.stride(), x.shape
    if any(shape[dim] == 0 or (stride[dim] == 0 and shape[dim] != 1) for dim in range(x.ndim)):
        return list(range(x.ndim))
    return sorted(range(x.ndim), key=lambda dim: (-stride[dim], bool(shape[dim] == 1), dim))


def dense_strides(shape: Sequence[int], order: Sequence[int]) -> list[int]:
    """The strides of a dense tensor whose dimensions lie in memory in this order, the outermost first."""
    strides, size = [1] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = size
        size = size * max(shape[dim], 1)
    return strides


def empty_in_order(x: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An empty dense tensor of this shape, its dimensions in memory in the order of x's: what ops return."""
    return x.new_empty_strided(shape, dense_strides(shape, memory_order(x)), dtype=dtype)


def _laid_out(result: Tensor, order: Sequence[int]) -> Tensor:
    if list(result.stride()) == dense_strides(result.shape, order):
        return result
    inverse = [order.index(dim) for dim in range(len(order))]
    return result.permute(*order).clone(memory_format=torch.contiguous_format).permute(inverse)


def as_memory_order_of(result: Tensor, x: Tensor) -> Tensor:
    """`result`, laid out as `empty_in_order(x, ...)`. Seldom a copy: elementwise ops keep their input's order."""
    if has_torch_function((result,)):
        return handle_torch_function(as_memory_order_of, (result,), result, x)  # type: ignore[no-any-return]
    return _laid_out(result, memory_order(x))


def as_contiguous(result: Tensor) -> Tensor:
    """`result`, laid out as `torch.empty`: with strides that its shape alone decides, also along lengths of 1."""
    if has_torch_function((result,)):
        return handle_torch_function(as_contiguous, (result,), result)  # type: ignore[no-any-return]
    return _laid_out(result, range(result.ndim))


def arange_like(x: Tensor, stop: int, step: int, dtype: torch.dtype) -> Tensor:
    """0, step, 2 step, ... below `stop`, where x lies."""
    if has_torch_function((x,)):
        return handle_torch_function(arange_like, (x,), x, stop, step, dtype)  # type: ignore[no-any-return]
    return torch.arange(0, stop, step, dtype=dtype, device=x.device)


def rounded_to_storage(scale: Tensor) -> Tensor:
    """A scale as it is read back. A compiler that keeps it in a register may keep more digits than its dtype has."""
    if has_torch_function((scale,)):
        return handle_torch_function(rounded_to_storage, (scale,), scale)  # type: ignore[no-any-return]
    return scale


def materialization_hint(values: Tensor) -> Tensor:
    """Values that are read more than once. A compiler decides whether to keep them or to compute them each time."""
    if has_torch_function((values,)):
        return handle_torch_function(materialization_hint, (values,), values)  # type: ignore[no-any-return]
    return values


def split_by_byte(x: Tensor, bits: int, dim: int, tile: int) -> list[Tensor]:
    """x alone; or the parts of x, along `dim`, whose codes share bytes: a compiler may make each byte at once.

    tile: how many neighbours along `dim` have to stay together.
    """
    if has_torch_function((x,)):
        return handle_torch_function(split_by_byte, (x,), x, bits, dim, tile)  # type: ignore[no-any-return]
    return [x]


def clamp_code(codes: Tensor, low: int, high: int) -> Tensor:
    """Float codes within [low, high]; a NaN becomes `low`. A comparison: isnan is scalar code in Inductor's C++."""
    return torch.where(codes > low, codes, float(low)).clamp_max(high)


def pack(codes: Tensor, bits: int, dim: int) -> Tensor:
    """Pack uint8 codes in [0, 2**bits) along `dim`: length L becomes packed_length(L, bits), dtype uint8.

    One bit may be given as bool. A byte's parts are added up as float32, which holds such numbers exactly: on the CPU,
    shifts of bytes take dozens of instructions, and what leads from bool, or int32 on AVX2, to bytes is scalar code.
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
    """`pack` of float codes of what `split_by_byte` gave."""
    if len(parts) == 1:
        return pack(parts[0].to(torch.uint8), bits, dim)
    return _byte(parts, bits).to(torch.uint8)


def _byte(parts: Sequence[Tensor], width: int) -> Tensor:
    byte = parts[0].to(torch.float32)
    for index, part in enumerate(parts[1:], 1):
        byte = byte + part.to(torch.float32) * float(2 ** (index * width))
    return byte


def unpack(packed: Tensor, bits: int, dim: int, length: int) -> Tensor:
    """The codes, int32, that `pack` packed; `length` is the unpacked length of `dim`.

    One shift a part of the dimension, as an outer dimension of its own: an index of the consumer's loop, not a copy.
    """
    total = padded_length(length, bits)
    codes, shift, start = None, 0, 0
    for width in PLANES[bits]:
        step, parts = total * width // 8, 8 // width
        byte = packed.narrow(dim, start, step).to(torch.int32)
        if parts > 1:
            row = [-1 if index == dim else 1 for index in range(packed.ndim + 1)]
            shifts = arange_like(packed, 8, width, torch.int32).reshape(row)
            byte = ((byte.unsqueeze(dim) >> shifts) & (2**width - 1)).flatten(dim, dim + 1)
        plane = byte << shift if shift else byte
        codes = plane if codes is None else codes | plane
        shift, start = shift + width, start + step
    assert codes is not None
    return codes.narrow(dim, 0, length) if total != length else codes
