"""Kernels of the fixed-range ops: `quantize_unit`, `dequantize_unit`."""

# Triton gives kernel parameters their types at each launch.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import fixed_range
from .launch import Order, Slots, empty_packed, empty_unpacked, run_slots
from .pack import empty_word, extract, floor_code, insert, load_word, locate, narrow, store_word, widen


@triton.jit
def _quantize(
    x,
    codes,
    nan_flag,
    low,
    inverse,
    slots,
    row,
    full,
    BITS: tl.constexpr,
    PER_SLOT: tl.constexpr,
    FLAT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    outer, in_row, live = locate(slots, row, FLAT, WIDE, BLOCK)
    word = empty_word(BITS, PER_SLOT, BLOCK)
    has_nan = tl.zeros([BLOCK], tl.int32)
    within = in_row
    for j in tl.static_range(PER_SLOT):
        valid = live & (within < full)
        value = widen(tl.load(x + (outer * full + within), mask=valid, other=0.0))
        has_nan = tl.where(value * 0.0 == 0.0, has_nan, 1)
        code = floor_code((value - low) * inverse, BITS)
        word = insert(word, tl.where(valid, code, 0), j, BITS, PER_SLOT)
        within += row
    store_word(codes, word, outer, in_row, row, live, BITS, PER_SLOT)
    # Every program that writes here writes the same.
    tl.store(nan_flag, float("nan"), mask=tl.max(has_nan, 0) != 0)


@triton.jit
def _dequantize(
    codes,
    nan_flag,
    out,
    step,
    middle,
    slots,
    row,
    full,
    BITS: tl.constexpr,
    PER_SLOT: tl.constexpr,
    FLAT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    outer, in_row, live = locate(slots, row, FLAT, WIDE, BLOCK)
    word = load_word(codes, outer, in_row, row, live, BITS, PER_SLOT, BLOCK)
    flag = tl.load(nan_flag)
    within = in_row
    for j in tl.static_range(PER_SLOT):
        code = extract(word, j, BITS, PER_SLOT, BLOCK).to(tl.float32)
        value = (code * step + middle) + flag
        tl.store(out + (outer * full + within), narrow(value, out.dtype.element_ty), mask=live & (within < full))
        within += row


@fixed_range.quantize_unit.definition.register_kernel("cuda")
def quantize_unit(x: Tensor, low: float, high: float, bits: int, pack_dim: int) -> tuple[Tensor, Tensor]:
    """See `approx_fx.ops.fixed_range.quantize_unit`."""
    order = Order.of(x)
    codes = empty_packed(x, bits, pack_dim)
    nan_flag = x.new_zeros((1,), dtype=torch.float32)
    source = order.apply(x)
    slots = Slots.of(source.shape, bits, order.index(pack_dim))
    edge, step = fixed_range.grid_of(low, high, bits)
    run_slots(_quantize, slots, x, x=source, codes=order.apply(codes), nan_flag=nan_flag, low=edge, inverse=1 / step)
    return codes, nan_flag


@fixed_range.dequantize_unit.definition.register_kernel("cuda")
def dequantize_unit(
    codes: Tensor, nan_flag: Tensor, low: float, high: float, bits: int, pack_dim: int, length: int, dtype: torch.dtype
) -> Tensor:
    """See `approx_fx.ops.fixed_range.dequantize_unit`."""
    order = Order.of(codes)
    out = empty_unpacked(codes, bits, pack_dim, length, dtype)
    target = order.apply(out)
    slots = Slots.of(target.shape, bits, order.index(pack_dim))
    edge, step = fixed_range.grid_of(low, high, bits)
    middle = edge + 0.5 * step
    run_slots(
        _dequantize, slots, codes, codes=order.apply(codes), nan_flag=nan_flag, out=target, step=step, middle=middle
    )
    return out
