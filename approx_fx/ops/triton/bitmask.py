"""Kernels of `quantize_bitmask`, and of `dequantize_bitmask` and `dequantize_relu_side`, which decode code != 0."""

# Triton gives kernel parameters their types at each launch.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import bitmask, group
from .launch import Order, Slots, as_bytes, empty_packed, empty_unpacked, run_slots
from .pack import empty_word, extract, insert, load_word, locate, store_word


@triton.jit
def pack_bytes(
    x,
    codes,
    slots,
    row,
    full,
    BITS: tl.constexpr,
    PER_SLOT: tl.constexpr,
    FLAT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Pack the codes x, uint8, into `codes`."""
    outer, in_row, live = locate(slots, row, FLAT, WIDE, BLOCK)
    word = empty_word(BITS, PER_SLOT, BLOCK)
    within = in_row
    for j in tl.static_range(PER_SLOT):
        code = tl.load(x + (outer * full + within), mask=live & (within < full), other=0).to(tl.int32)
        word = insert(word, code, j, BITS, PER_SLOT)
        within += row
    store_word(codes, word, outer, in_row, row, live, BITS, PER_SLOT)


@triton.jit
def unpack_nonzero(
    codes,
    out,
    slots,
    row,
    full,
    BITS: tl.constexpr,
    PER_SLOT: tl.constexpr,
    FLAT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write `out`, uint8: 1 where the code is not 0, else 0."""
    outer, in_row, live = locate(slots, row, FLAT, WIDE, BLOCK)
    word = load_word(codes, outer, in_row, row, live, BITS, PER_SLOT, BLOCK)
    within = in_row
    for j in tl.static_range(PER_SLOT):
        code = extract(word, j, BITS, PER_SLOT, BLOCK)
        tl.store(out + (outer * full + within), (code != 0).to(tl.uint8), mask=live & (within < full))
        within += row


@bitmask.quantize_bitmask.definition.register_kernel("cuda")
def quantize_bitmask(mask: Tensor, pack_dim: int) -> Tensor:
    """See `approx_fx.ops.bitmask.quantize_bitmask`."""
    order = Order.of(mask)
    codes = empty_packed(mask, 1, pack_dim)
    source = order.apply(mask)
    slots = Slots.of(source.shape, 1, order.index(pack_dim))
    run_slots(pack_bytes, slots, mask, x=as_bytes(source), codes=order.apply(codes))
    return codes


def _nonzero(codes: Tensor, bits: int, pack_dim: int, length: int) -> Tensor:
    """A bool tensor, True where the code is not 0."""
    order = Order.of(codes)
    out = empty_unpacked(codes, bits, pack_dim, length, torch.bool)
    target = order.apply(out)
    slots = Slots.of(target.shape, bits, order.index(pack_dim))
    run_slots(unpack_nonzero, slots, codes, codes=order.apply(codes), out=as_bytes(target))
    return out


@bitmask.dequantize_bitmask.definition.register_kernel("cuda")
def dequantize_bitmask(codes: Tensor, pack_dim: int, length: int) -> Tensor:
    """See `approx_fx.ops.bitmask.dequantize_bitmask`."""
    return _nonzero(codes, 1, pack_dim, length)


@group.dequantize_relu_side.definition.register_kernel("cuda")
def dequantize_relu_side(codes: Tensor, bits: int, pack_dim: int, length: int) -> Tensor:
    """See `approx_fx.ops.group.dequantize_relu_side`."""
    return _nonzero(codes, bits, pack_dim, length)
