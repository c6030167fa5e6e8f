"""Group ops: codes with one scale per tile of a tensor, taken from the tile's minimum and maximum.

A tile is `group` neighbours along `dim` (which `group` divides), times all elements along the dimensions `over`.
Scales are stored as bfloat16, rounded outwards, so that no value of the tile is clipped.

    group   low <= min, step >= (max - low) / 2^K,   q = floor((x - low) / step),   x~ = low + (q + 1/2) step
    relu    step >= max / (2^K - 1), 0 has code 0,    q = ceil(x / step) >= 1 where x > 0,   x~ = (q - 1/2) step

A NaN or Inf makes its tile's scale NaN or Inf, and with it every decoded value of the tile that is not an exact zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .pack import (
    as_contiguous,
    as_memory_order_of,
    clamp_code,
    empty_in_order,
    materialization_hint,
    pack,
    pack_by_byte,
    packed_length,
    rounded_to_storage,
    split_by_byte,
    unpack,
)
from .registry import define

# bfloat16 keeps 8 significant bits: widening by 2^-7 outweighs both rounding to nearest (2^-9) and truncation.
MARGIN = 2.0**-7


def _tiles(x: Tensor, dim: int, group: int) -> Tensor:
    """x with `dim` split into [number of groups, group]."""
    return x.unflatten(dim, (x.shape[dim] // group, group))


def _reduced(dim: int, over: list[int]) -> list[int]:
    """The dimensions to reduce, once `dim` has been split in two."""
    return [dim + 1, *(index + 1 if index > dim else index for index in over)]


def _scale_shape(x: Tensor, dim: int, group: int, over: list[int]) -> list[int]:
    """The shape of one scale per tile, which broadcasts against `_tiles(x, dim, group)`."""
    shape = list(x.shape)
    shape[dim : dim + 1] = [shape[dim] // group, 1]
    for index in _reduced(dim, over):
        shape[index] = 1
    return shape


def _smallest(tiles: Tensor, reduced: list[int]) -> Tensor:
    """The smallest value of each tile, NaN where it holds one; 0 for a tile of no elements."""
    if tiles.numel() == 0:
        return tiles.sum(reduced, keepdim=True)
    return tiles.amin(reduced, keepdim=True)


def _largest(tiles: Tensor, reduced: list[int]) -> Tensor:
    """The largest value of each tile, NaN where it holds one; 0 for a tile of no elements."""
    if tiles.numel() == 0:
        return tiles.sum(reduced, keepdim=True)
    return tiles.amax(reduced, keepdim=True)


def _tile_extent(x: Tensor, dim: int, group: int, over: list[int], along: int) -> int:
    """The length of a tile along the dimension `along`."""
    return x.shape[along] if along in over else group if along == dim else 1


def _packed(x: Tensor, bits: int, pack_dim: int) -> Tensor:
    """An empty uint8 tensor for the packed codes of x."""
    shape = list(x.shape)
    shape[pack_dim] = packed_length(shape[pack_dim], bits)
    return empty_in_order(x, shape, torch.uint8)


def _unpacked(codes: Tensor, pack_dim: int, length: int, dtype: torch.dtype) -> Tensor:
    """An empty tensor for the decoded values of `codes`."""
    shape = list(codes.shape)
    shape[pack_dim] = length
    return empty_in_order(codes, shape, dtype)


def _fake_quantize_group(
    x: Tensor, bits: int, dim: int, group: int, over: list[int], pack_dim: int
) -> tuple[Tensor, Tensor]:
    scale = x.new_empty([2, *_scale_shape(x, dim, group, over)], dtype=torch.bfloat16)
    return _packed(x, bits, pack_dim), scale


@define(_fake_quantize_group, kind="encode")
def quantize_group(x: Tensor, bits: int, dim: int, group: int, over: list[int], pack_dim: int) -> tuple[Tensor, Tensor]:
    """Encode x, of any float dtype, with a low and a step per tile.

    Returns codes, uint8 packed along `pack_dim`, and the scale, bfloat16 [2, *tiles]: low and step.
    """
    reduced = _reduced(dim, over)
    codes, lows, steps = [], [], []
    for part in split_by_byte(
        materialization_hint(x.float()), bits, pack_dim, _tile_extent(x, dim, group, over, pack_dim)
    ):
        tiles = _tiles(part, dim, group)
        low, high = _smallest(tiles, reduced), _largest(tiles, reduced)
        low = rounded_to_storage((low - low.abs() * MARGIN).to(torch.bfloat16))
        step = rounded_to_storage(((high - low.float()) * ((1 + MARGIN) / 2**bits)).to(torch.bfloat16))
        divisor = torch.where(step == 0, 1.0, step.float())
        codes.append(clamp_code(torch.floor((tiles - low.float()) / divisor), 0, 2**bits - 1))
        lows.append(low)
        steps.append(step)
    if len(codes) == 1:  # rounding in the tiles' shape lets a compiler encode in the loop that reduces the tile
        packed = pack(codes[0].to(torch.uint8).flatten(dim, dim + 1), bits, pack_dim)
        scale = torch.stack([*lows, *steps])
    else:
        packed = pack_by_byte([tile_codes.flatten(dim, dim + 1) for tile_codes in codes], bits, pack_dim)
        scale = torch.cat([*lows, *steps], 0).reshape([2, *_scale_shape(x, dim, group, over)])
    return as_memory_order_of(packed, x), as_contiguous(scale)


def _fake_dequantize_group(
    codes: Tensor,
    scale: Tensor,
    bits: int,
    dim: int,
    group: int,
    pack_dim: int,
    length: int,
    dtype: torch.dtype,
) -> Tensor:
    return _unpacked(codes, pack_dim, length, dtype)


@define(_fake_dequantize_group, kind="decode")
def dequantize_group(
    codes: Tensor,
    scale: Tensor,
    bits: int,
    dim: int,
    group: int,
    pack_dim: int,
    length: int,
    dtype: torch.dtype,
) -> Tensor:
    """Decode to the middle of each code's bin, in `dtype`. length: size of `pack_dim` before packing."""
    low, step = scale[0].float(), scale[1].float()
    tiles = _tiles(unpack(codes, bits, pack_dim, length).float(), dim, group)
    return as_memory_order_of((low + 0.5 * step + tiles * step).flatten(dim, dim + 1).to(dtype), codes)


def _fake_quantize_relu(
    x: Tensor, side: Tensor | None, bits: int, dim: int, group: int, over: list[int], pack_dim: int
) -> tuple[Tensor, Tensor]:
    return _packed(x, bits, pack_dim), x.new_empty(_scale_shape(x, dim, group, over), dtype=torch.bfloat16)


@define(_fake_quantize_relu, kind="encode")
def quantize_relu(
    x: Tensor, side: Tensor | None, bits: int, dim: int, group: int, over: list[int], pack_dim: int
) -> tuple[Tensor, Tensor]:
    """Encode x >= 0, of any float dtype, with a step per tile; code 0 stands for an exact zero.

    side: bool, the forward's own x > 0, or None to compare here; a code is 0 exactly where it is False.
    Returns codes, uint8 packed along `pack_dim`, and the scale, bfloat16 [*tiles]: the step.
    """
    levels, tile = 2**bits - 1, _tile_extent(x, dim, group, over, pack_dim)
    sides = split_by_byte(~(x <= 0) if side is None else side, bits, pack_dim, tile)
    codes, steps = [], []
    for part, positive in zip(split_by_byte(materialization_hint(x.float()), bits, pack_dim, tile), sides, strict=True):
        tiles = _tiles(part, dim, group)
        step = rounded_to_storage((_largest(tiles, _reduced(dim, over)) * ((1 + MARGIN) / levels)).to(torch.bfloat16))
        divisor = torch.where(step == 0, 1.0, step.float())
        rounded = clamp_code(torch.ceil(tiles / divisor), 1, levels).flatten(dim, dim + 1)
        codes.append(torch.where(positive, rounded, 0.0))
        steps.append(step)
    return as_memory_order_of(pack_by_byte(codes, bits, pack_dim), x), as_contiguous(
        steps[0] if len(steps) == 1 else torch.cat(steps, 0)
    )


def _fake_dequantize_relu(
    codes: Tensor,
    scale: Tensor,
    bits: int,
    dim: int,
    group: int,
    pack_dim: int,
    length: int,
    dtype: torch.dtype,
) -> Tensor:
    return _unpacked(codes, pack_dim, length, dtype)


@define(_fake_dequantize_relu, kind="decode")
def dequantize_relu(
    codes: Tensor,
    scale: Tensor,
    bits: int,
    dim: int,
    group: int,
    pack_dim: int,
    length: int,
    dtype: torch.dtype,
) -> Tensor:
    """Decode code 0 to 0, any other to the middle of its bin, in `dtype`. length: size of `pack_dim` before packing."""
    tiles = _tiles(unpack(codes, bits, pack_dim, length).float(), dim, group)
    values = torch.where(tiles > 0, (tiles - 0.5) * scale.float(), 0.0)
    return as_memory_order_of(values.flatten(dim, dim + 1).to(dtype), codes)


def _fake_relu_side(codes: Tensor, bits: int, pack_dim: int, length: int) -> Tensor:
    return _unpacked(codes, pack_dim, length, torch.bool)


@define(_fake_relu_side, kind="mask", exact=True)
def dequantize_relu_side(codes: Tensor, bits: int, pack_dim: int, length: int) -> Tensor:
    """The `side` given to `quantize_relu`, bit for bit: code > 0, as bool."""
    return as_memory_order_of(unpack(codes, bits, pack_dim, length) > 0, codes)
