"""Kernels of the group ops: `quantize_group`, `quantize_relu` and their decoders.

Encoding takes two kernels: the first reduces tiles to their scales, the second encodes slots with them.
"""

# Triton gives kernel parameters their types at each launch.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import group as reference
from .launch import WIDE_FROM, Order, Slots, as_bytes, empty_packed, empty_unpacked, run, run_slots
from .pack import ceil_code, empty_word, extract, floor_code, insert, load_word, locate, narrow, store_word, widen
from .tiles import Tiles


@triton.jit
def tile_of(element, reduced1, kept2, reduced2):
    """The index of the tile that holds an element, both counted in memory order. Other arguments: see `Tiles`."""
    return element // (reduced1 * kept2 * reduced2) * kept2 + element // reduced2 % kept2


@triton.jit(do_not_specialize=["tiles", "size", "reduced1"])
def _find_scales(
    x,
    scale,
    tiles,
    size,
    reduced1,
    kept2,
    reduced2,
    margin,
    shrink,
    RELU: tl.constexpr,
    WIDE: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write `scale`, bfloat16: the steps of all tiles if RELU, else their lows and then their steps."""
    tile = tl.program_id(0) * TILES + tl.arange(0, TILES)
    if WIDE:
        tile = tl.program_id(0).to(tl.int64) * TILES + tl.arange(0, TILES)
    exists = tile < tiles
    base = (tile // kept2 * reduced1 * kept2 + tile % kept2) * reduced2
    low = tl.full([TILES, BLOCK], float("inf"), tl.float32)
    high = tl.full([TILES, BLOCK], float("-inf"), tl.float32)
    missing = tl.zeros([TILES, BLOCK], tl.int32)
    for start in range(0, size, BLOCK):
        index = start + tl.arange(0, BLOCK)
        if WIDE:
            index = index.to(tl.int64)
        offset = base[:, None] + (index // reduced2 * kept2 * reduced2 + index % reduced2)[None, :]
        valid = exists[:, None] & (index < size)[None, :]
        value = widen(tl.load(x + offset, mask=valid, other=0.0))
        # The hardware's minimum and maximum ignore a NaN, so each tile's NaN is recorded in a variable of its own.
        number = valid & (value == value)
        missing = tl.where(valid & (value != value), 1, missing)
        low = tl.minimum(low, tl.where(number, value, float("inf")))
        high = tl.maximum(high, tl.where(number, value, float("-inf")))
    nan = tl.max(missing, 1) != 0
    highest = tl.where(nan, float("nan"), tl.max(high, 1))
    if RELU:
        tl.store(scale + tile, narrow(highest * shrink, tl.bfloat16), mask=exists)
    else:
        lowest = tl.where(nan, float("nan"), tl.min(low, 1))
        rounded = narrow(lowest - tl.abs(lowest) * margin, tl.bfloat16)
        tl.store(scale + tile, rounded, mask=exists)
        tl.store(scale + tiles + tile, narrow((highest - widen(rounded)) * shrink, tl.bfloat16), mask=exists)


@triton.jit(do_not_specialize=["tiles", "reduced1", "tile_step"])
def _quantize(
    x,
    scale,
    side,
    codes,
    tiles,
    reduced1,
    kept2,
    reduced2,
    tile_step,
    slots,
    row,
    full,
    RELU: tl.constexpr,
    SIDE: tl.constexpr,
    ALONG: tl.constexpr,
    BITS: tl.constexpr,
    PER_SLOT: tl.constexpr,
    FLAT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    outer, in_row, live = locate(slots, row, FLAT, WIDE, BLOCK)
    word = empty_word(BITS, PER_SLOT, BLOCK)
    within = in_row
    tile = tile_of(outer * full + in_row, reduced1, kept2, reduced2)
    for j in tl.static_range(PER_SLOT):
        valid = live & (within < full)
        if ALONG:
            tile = tile_of(outer * full + within, reduced1, kept2, reduced2)
        value = widen(tl.load(x + (outer * full + within), mask=valid, other=0.0))
        if RELU:
            step = widen(tl.load(scale + tile, mask=valid, other=1.0))
            code = tl.maximum(ceil_code(tl.math.div_rn(value, tl.where(step == 0.0, 1.0, step)), BITS), 1)
            if SIDE:
                above = tl.load(side + (outer * full + within), mask=valid, other=0) != 0
                code = tl.where(above, code, 0)
            else:
                code = tl.where(value <= 0.0, 0, code)
        else:
            low = widen(tl.load(scale + tile, mask=valid, other=0.0))
            step = widen(tl.load(scale + tiles + tile, mask=valid, other=1.0))
            code = floor_code(tl.math.div_rn(value - low, tl.where(step == 0.0, 1.0, step)), BITS)
        word = insert(word, tl.where(valid, code, 0), j, BITS, PER_SLOT)
        within += row
        tile += tile_step
    store_word(codes, word, outer, in_row, row, live, BITS, PER_SLOT)


@triton.jit(do_not_specialize=["tiles", "reduced1", "tile_step"])
def _dequantize(
    codes,
    scale,
    out,
    tiles,
    reduced1,
    kept2,
    reduced2,
    tile_step,
    slots,
    row,
    full,
    RELU: tl.constexpr,
    ALONG: tl.constexpr,
    BITS: tl.constexpr,
    PER_SLOT: tl.constexpr,
    FLAT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    outer, in_row, live = locate(slots, row, FLAT, WIDE, BLOCK)
    word = load_word(codes, outer, in_row, row, live, BITS, PER_SLOT, BLOCK)
    within = in_row
    tile = tile_of(outer * full + in_row, reduced1, kept2, reduced2)
    for j in tl.static_range(PER_SLOT):
        valid = live & (within < full)
        if ALONG:
            tile = tile_of(outer * full + within, reduced1, kept2, reduced2)
        code = extract(word, j, BITS, PER_SLOT, BLOCK).to(tl.float32)
        if RELU:
            step = widen(tl.load(scale + tile, mask=valid, other=0.0))
            value = tl.where(code > 0.0, (code - 0.5) * step, 0.0)
        else:
            low = widen(tl.load(scale + tile, mask=valid, other=0.0))
            step = widen(tl.load(scale + tiles + tile, mask=valid, other=0.0))
            value = (low + 0.5 * step) + code * step
        tl.store(out + (outer * full + within), narrow(value, out.dtype.element_ty), mask=valid)
        within += row
        tile += tile_step


def _scales(x: Tensor, tiles: Tiles, bits: int, relu: bool) -> Tensor:
    """The scales of x's tiles, bfloat16, in memory order: [tiles.shape], or unless `relu` [2, *tiles.shape]."""
    shape = tiles.shape if relu else (2, *tiles.shape)
    if tiles.size == 0:
        return x.new_zeros(shape, dtype=torch.bfloat16)
    scale = x.new_empty(shape, dtype=torch.bfloat16)
    # Neighbours in memory belong to one tile, or for a short run to neighbouring tiles.
    run_length = tiles.size if tiles.kept2 == 1 else tiles.reduced2
    block = max(16, min(triton.next_power_of_2(tiles.size), 1024)) if run_length >= 32 else 16
    per_program = 2048 // block
    arguments: dict[str, Any] = {
        "x": x,
        "scale": scale,
        "tiles": tiles.count,
        "size": tiles.size,
        "reduced1": tiles.reduced1,
        "kept2": tiles.kept2,
        "reduced2": tiles.reduced2,
        "margin": reference.MARGIN,
        "shrink": (1 + reference.MARGIN) / (2**bits - 1 if relu else 2**bits),
        "RELU": relu,
        "WIDE": x.numel() >= WIDE_FROM,
        "TILES": per_program,
        "BLOCK": block,
    }
    if tiles.count:
        run(_find_scales, triton.cdiv(tiles.count, per_program), arguments, x)
    return scale


def _encode(
    x: Tensor, tiles: Tiles, side: Tensor | None, bits: int, pack_dim: int, relu: bool
) -> tuple[Tensor, Tensor]:
    """The codes of x, and the scale in memory order."""
    codes = empty_packed(x, bits, pack_dim)
    source = tiles.order.apply(x)
    scale = _scales(source, tiles, bits, relu)
    slots = Slots.of(source.shape, bits, tiles.order.index(pack_dim))
    run_slots(
        _quantize,
        slots,
        x,
        x=source,
        scale=scale,
        side=source if side is None else as_bytes(tiles.order.apply(side.expand_as(x))),
        codes=tiles.order.apply(codes),
        tiles=tiles.count,
        RELU=relu,
        SIDE=side is not None,
        **tiles.arguments(slots, pack_dim),
    )
    return codes, scale


def _decode(
    codes: Tensor, scale: Tensor, tiles: Tiles, bits: int, pack_dim: int, length: int, dtype: torch.dtype, relu: bool
) -> Tensor:
    """The decoded values. scale: in memory order."""
    out = empty_unpacked(codes, bits, pack_dim, length, dtype)
    target = tiles.order.apply(out)
    slots = Slots.of(target.shape, bits, tiles.order.index(pack_dim))
    run_slots(
        _dequantize,
        slots,
        codes,
        codes=tiles.order.apply(codes),
        scale=scale,
        out=target,
        tiles=tiles.count,
        RELU=relu,
        **tiles.arguments(slots, pack_dim),
    )
    return out


@reference.quantize_group.definition.register_kernel("cuda")
def quantize_group(x: Tensor, bits: int, dim: int, group: int, over: list[int], pack_dim: int) -> tuple[Tensor, Tensor]:
    """See `approx_fx.ops.group.quantize_group`."""
    tiles = Tiles.of(x.shape, Order.of(x), dim, group, over)
    if tiles is None:
        return reference.quantize_group.reference(x, bits, dim, group, over, pack_dim)
    codes, scale = _encode(x, tiles, None, bits, pack_dim, relu=False)
    return codes, torch.stack([tiles.to_plain(scale[0]), tiles.to_plain(scale[1])])


@reference.quantize_relu.definition.register_kernel("cuda")
def quantize_relu(
    x: Tensor, side: Tensor | None, bits: int, dim: int, group: int, over: list[int], pack_dim: int
) -> tuple[Tensor, Tensor]:
    """See `approx_fx.ops.group.quantize_relu`."""
    tiles = Tiles.of(x.shape, Order.of(x), dim, group, over)
    if tiles is None:
        return reference.quantize_relu.reference(x, side, bits, dim, group, over, pack_dim)
    codes, scale = _encode(x, tiles, side, bits, pack_dim, relu=True)
    return codes, tiles.to_plain(scale)


@reference.dequantize_group.definition.register_kernel("cuda")
def dequantize_group(
    codes: Tensor, scale: Tensor, bits: int, dim: int, group: int, pack_dim: int, length: int, dtype: torch.dtype
) -> Tensor:
    """See `approx_fx.ops.group.dequantize_group`."""
    tiles = Tiles.of_codes(codes, scale.shape[1:], dim, group, pack_dim, length)
    if tiles is None:
        return reference.dequantize_group.reference(codes, scale, bits, dim, group, pack_dim, length, dtype)
    ordered = torch.stack([tiles.to_memory(scale[0]), tiles.to_memory(scale[1])])
    return _decode(codes, ordered, tiles, bits, pack_dim, length, dtype, relu=False)


@reference.dequantize_relu.definition.register_kernel("cuda")
def dequantize_relu(
    codes: Tensor, scale: Tensor, bits: int, dim: int, group: int, pack_dim: int, length: int, dtype: torch.dtype
) -> Tensor:
    """See `approx_fx.ops.group.dequantize_relu`."""
    tiles = Tiles.of_codes(codes, scale.shape, dim, group, pack_dim, length)
    if tiles is None:
        return reference.dequantize_relu.reference(codes, scale, bits, dim, group, pack_dim, length, dtype)
    return _decode(codes, tiles.to_memory(scale), tiles, bits, pack_dim, length, dtype, relu=True)
