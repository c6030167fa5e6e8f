"""Kernels of the channel ops: `quantize_channel`, `dequantize_channel`, `dequantize_channel_side`.

An element's channel is (element // inner) % channels, in memory order. The codes of a slot lie along the packed
dimension, all in one channel, unless the channels are packed (ALONG): then each is `channel_step` channels further on.
"""

# Triton gives kernel parameters their types at each launch.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import channel
from .launch import Order, Slots, as_bytes, empty_packed, empty_unpacked, run_slots
from .pack import empty_word, extract, floor_code, insert, load_word, locate, narrow, store_word, widen


@triton.jit(do_not_specialize=["channels", "channel_step"])
def _quantize(
    x,
    rows,
    side,
    codes,
    inner,
    channels,
    channel_step,
    slots,
    row,
    full,
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
    row_of = rows + (outer * full + in_row) // inner % channels
    low = tl.load(row_of, mask=live, other=0.0)
    inverse = tl.load(row_of + 3 * channels, mask=live, other=0.0)
    level = tl.load(row_of + 2 * channels, mask=live, other=0.0).to(tl.int32)
    for j in tl.static_range(PER_SLOT):
        valid = live & (within < full)
        if ALONG and j > 0:
            row_of += channel_step
            low = tl.load(row_of, mask=valid, other=0.0)
            inverse = tl.load(row_of + 3 * channels, mask=valid, other=0.0)
            level = tl.load(row_of + 2 * channels, mask=valid, other=0.0).to(tl.int32)
        value = widen(tl.load(x + (outer * full + within), mask=valid, other=0.0))
        code = floor_code((value - low) * inverse, BITS)
        if SIDE:
            above = tl.load(side + (outer * full + within), mask=valid, other=0) != 0
            code = tl.where(above, tl.maximum(code, level), tl.minimum(code, level - 1))
            code = tl.minimum(tl.maximum(code, 0), (1 << BITS) - 1)
        word = insert(word, tl.where(valid, code, 0), j, BITS, PER_SLOT)
        within += row
    store_word(codes, word, outer, in_row, row, live, BITS, PER_SLOT)


@triton.jit(do_not_specialize=["channels", "channel_step"])
def _dequantize(
    codes,
    rows,
    out,
    inner,
    channels,
    channel_step,
    slots,
    row,
    full,
    SIDE: tl.constexpr,
    ALONG: tl.constexpr,
    BITS: tl.constexpr,
    PER_SLOT: tl.constexpr,
    FLAT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write `out`: the decoded values, or if SIDE, code >= level as uint8."""
    outer, in_row, live = locate(slots, row, FLAT, WIDE, BLOCK)
    word = load_word(codes, outer, in_row, row, live, BITS, PER_SLOT, BLOCK)
    within = in_row
    row_of = rows + (outer * full + in_row) // inner % channels
    low = tl.load(row_of, mask=live, other=0.0)
    step = tl.load(row_of + channels, mask=live, other=0.0)
    level = tl.load(row_of + 2 * channels, mask=live, other=0.0)
    for j in tl.static_range(PER_SLOT):
        valid = live & (within < full)
        if ALONG and j > 0:
            row_of += channel_step
            low = tl.load(row_of, mask=valid, other=0.0)
            step = tl.load(row_of + channels, mask=valid, other=0.0)
            level = tl.load(row_of + 2 * channels, mask=valid, other=0.0)
        code = extract(word, j, BITS, PER_SLOT, BLOCK).to(tl.float32)
        if SIDE:
            tl.store(out + (outer * full + within), (code >= level).to(tl.uint8), mask=valid)
        else:
            value = (low + 0.5 * step) + code * step
            tl.store(out + (outer * full + within), narrow(value, out.dtype.element_ty), mask=valid)
        within += row


def _channels(shape: torch.Size, slots: Slots, dim: int, pack_dim: int) -> dict[str, Any]:
    """The kernel arguments that give the channel of each element of a contiguous tensor of this shape."""
    inner = math.prod(shape[dim + 1 :])
    along = dim == pack_dim
    return {
        "inner": inner,
        "channels": shape[dim],
        "channel_step": slots.row // max(inner, 1) if along else 0,
        "ALONG": along,
    }


@channel.quantize_channel.definition.register_kernel("cuda")
def quantize_channel(x: Tensor, grid: Tensor, side: Tensor | None, bits: int, dim: int, pack_dim: int) -> Tensor:
    """See `approx_fx.ops.channel.quantize_channel`."""
    order = Order.of(x)
    codes = empty_packed(x, bits, pack_dim)
    source = order.apply(x)
    dim, pack_dim = order.index(dim), order.index(pack_dim)
    slots = Slots.of(source.shape, bits, pack_dim)
    run_slots(
        _quantize,
        slots,
        x,
        x=source,
        rows=grid.expand(4, source.shape[dim]).contiguous(),
        side=source if side is None else as_bytes(order.apply(side.expand_as(x))),
        codes=order.apply(codes),
        SIDE=side is not None,
        **_channels(source.shape, slots, dim, pack_dim),
    )
    return codes


def _decode(
    codes: Tensor, grid: Tensor, bits: int, dim: int, pack_dim: int, length: int, dtype: torch.dtype, side: bool
) -> Tensor:
    order = Order.of(codes)
    out = empty_unpacked(codes, bits, pack_dim, length, dtype)
    target = order.apply(out)
    dim, pack_dim = order.index(dim), order.index(pack_dim)
    slots = Slots.of(target.shape, bits, pack_dim)
    run_slots(
        _dequantize,
        slots,
        codes,
        codes=order.apply(codes),
        rows=grid.expand(4, target.shape[dim]).contiguous(),
        out=as_bytes(target) if side else target,
        SIDE=side,
        **_channels(target.shape, slots, dim, pack_dim),
    )
    return out


@channel.dequantize_channel.definition.register_kernel("cuda")
def dequantize_channel(
    codes: Tensor, grid: Tensor, bits: int, dim: int, pack_dim: int, length: int, dtype: torch.dtype
) -> Tensor:
    """See `approx_fx.ops.channel.dequantize_channel`."""
    return _decode(codes, grid, bits, dim, pack_dim, length, dtype, side=False)


@channel.dequantize_channel_side.definition.register_kernel("cuda")
def dequantize_channel_side(codes: Tensor, grid: Tensor, bits: int, dim: int, pack_dim: int, length: int) -> Tensor:
    """See `approx_fx.ops.channel.dequantize_channel_side`."""
    return _decode(codes, grid, bits, dim, pack_dim, length, torch.bool, side=True)
