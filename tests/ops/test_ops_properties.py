"""What holds for every tensor, whatever its shape, strides, dtype, and for every width.

Errors stay within half a step, masks are exact, NaN and Inf come through, fake implementations are as the real ones.
"""

from __future__ import annotations

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from approx_fx.ops import OPS, channel, fixed_range
from approx_fx.ops.pack import unpack
from tests.support.strategies import (
    ROUNDOFF,
    Tiling,
    allowance,
    assert_layout,
    assert_within,
    channel_rows,
    place,
    quick,
    statistics,
    tensors,
    widths,
)


@quick
@given(data=st.data(), x=tensors(), bits=widths, grid=st.sampled_from(channel.GRIDS))
def test_channel_error(data: st.DataObject, x: Tensor, bits: int, grid: str) -> None:
    dim, packed = place(data, x, "dim"), place(data, x, "pack_dim")
    rows = channel_rows(x, dim, None, None, None, bits, grid)
    codes = channel.quantize_channel.overload(x, rows, None, bits, dim, packed)
    decoded = channel.dequantize_channel.overload(codes, rows, bits, dim, packed, x.shape[packed], x.dtype)
    assert_layout(codes, decoded, x)
    along = [x.shape[dim] if index == dim else 1 for index in range(x.ndim)]
    low, step = (row.double().reshape(along) for row in rows[:2])
    ratio = (x.double() - low) / step
    inside = (ratio >= 0) & (ratio <= 2**bits)
    assert_within(decoded, x, low, step, bits, inside)
    # Values beyond the window get its outermost code, and so its middle.
    edge = torch.where(ratio < 0, low + 0.5 * step, low + (2**bits - 0.5) * step)
    assert bool(((decoded.double() - edge).abs() <= allowance(low, step, bits, decoded))[~inside].all())


@quick
@given(data=st.data(), x=tensors(special=True), bits=widths, grid=st.sampled_from(channel.GRIDS))
def test_channel_side_and_nan(data: st.DataObject, x: Tensor, bits: int, grid: str) -> None:
    """Any side at all comes back, also of NaN; a channel that holds a NaN decodes to none but NaN or Inf."""
    dim, packed = place(data, x, "dim"), place(data, x, "pack_dim")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99), label="seed"))
    channels = x.shape[dim]
    weight = torch.randn(channels, generator=generator)
    bias = torch.randn(channels, generator=generator) * 10.0 ** data.draw(st.integers(-2, 9), label="bias")
    rows = channel_rows(x, dim, weight, bias, data.draw(st.sampled_from([0.0, 6.0])), bits, grid)
    side = torch.rand(x.shape, generator=generator) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    codes = channel.quantize_channel.overload(x, rows, side, bits, dim, packed)
    back = channel.dequantize_channel_side.overload(codes, rows, bits, dim, packed, x.shape[packed])
    assert torch.equal(back, side)
    decoded = channel.dequantize_channel.overload(codes, rows, bits, dim, packed, x.shape[packed], x.dtype)
    whole = Tiling(dim, 1, [index for index in range(x.ndim) if index != dim])
    touched = whole.of_any(~x.isfinite())
    assert not decoded[touched].isfinite().any()
    assert not decoded[~touched].isnan().any()


@quick
@given(data=st.data(), x=tensors(), bits=widths)
def test_group_error(data: st.DataObject, x: Tensor, bits: int) -> None:
    tiling, packed = Tiling.draw(data, x), place(data, x, "pack_dim")
    codes, scale = OPS["quantize_group"].overload(x, bits, tiling.dim, tiling.group, tiling.over, packed)
    decoded = OPS["dequantize_group"].overload(
        codes, scale, bits, tiling.dim, tiling.group, packed, x.shape[packed], x.dtype
    )
    assert_layout(codes, decoded, x)
    low, step = (tiling.spread(row.double(), x) for row in scale)
    assert_within(decoded, x, low, step, bits, torch.ones_like(x, dtype=torch.bool))
    # No wider than need be: bfloat16 rounds both outwards, by less than 2^-6 of the largest value.
    largest = tiling.spread(
        OPS["quantize_relu"].overload(x.abs(), None, 1, tiling.dim, tiling.group, tiling.over, 0)[1], x
    )
    assert bool((2**bits * step <= 2.1 * largest.double()).all())


@quick
@given(data=st.data(), x=tensors(special=True), bits=widths)
def test_group_nan(data: st.DataObject, x: Tensor, bits: int) -> None:
    """A tile that holds a NaN or Inf decodes to none but NaN or Inf; its neighbours decode as ever."""
    tiling, packed = Tiling.draw(data, x), place(data, x, "pack_dim")
    codes, scale = OPS["quantize_group"].overload(x, bits, tiling.dim, tiling.group, tiling.over, packed)
    decoded = OPS["dequantize_group"].overload(
        codes, scale, bits, tiling.dim, tiling.group, packed, x.shape[packed], x.dtype
    )
    touched = tiling.of_any(~x.isfinite())
    assert not decoded[touched].isfinite().any()
    low, step = (tiling.spread(row.double(), x) for row in scale)
    assert_within(decoded, x, low, step, bits, ~touched)


@quick
@given(data=st.data(), x=tensors(positive=True), bits=widths)
def test_relu_error(data: st.DataObject, x: Tensor, bits: int) -> None:
    """Code 0 exactly for 0, and 0 decodes to 0; else within half a step. With a side given, code 0 exactly off it."""
    tiling, packed = Tiling.draw(data, x), place(data, x, "pack_dim")
    codes, scale = OPS["quantize_relu"].overload(x, None, bits, tiling.dim, tiling.group, tiling.over, packed)
    decoded = OPS["dequantize_relu"].overload(
        codes, scale, bits, tiling.dim, tiling.group, packed, x.shape[packed], x.dtype
    )
    assert_layout(codes, decoded, x)
    assert torch.equal(unpack(codes, bits, packed, x.shape[packed]) > 0, x > 0)
    assert torch.equal(OPS["dequantize_relu_side"].overload(codes, bits, packed, x.shape[packed]), x > 0)
    assert not decoded[x == 0].any()
    assert_within(decoded, x, 0.0, tiling.spread(scale.double(), x), bits, torch.ones_like(x, dtype=torch.bool))
    side = torch.rand(x.shape, generator=torch.Generator().manual_seed(bits)) < 0.5
    codes, _ = OPS["quantize_relu"].overload(x, side, bits, tiling.dim, tiling.group, tiling.over, packed)
    assert torch.equal(OPS["dequantize_relu_side"].overload(codes, bits, packed, x.shape[packed]), side)


@quick
@given(data=st.data(), x=tensors(special=True, positive=True), bits=widths)
def test_relu_nan(data: st.DataObject, x: Tensor, bits: int) -> None:
    """In a tile that holds a NaN or Inf, all but exact zeros decode to NaN or Inf; its neighbours decode as ever."""
    tiling, packed = Tiling.draw(data, x), place(data, x, "pack_dim")
    codes, scale = OPS["quantize_relu"].overload(x, None, bits, tiling.dim, tiling.group, tiling.over, packed)
    decoded = OPS["dequantize_relu"].overload(
        codes, scale, bits, tiling.dim, tiling.group, packed, x.shape[packed], x.dtype
    )
    touched = tiling.of_any(~x.isfinite())
    assert not decoded[touched & (x != 0)].isfinite().any()
    assert not decoded[x == 0].any()
    assert_within(decoded, x, 0.0, tiling.spread(scale.double(), x), bits, ~touched)


@quick
@given(data=st.data(), x=tensors(unit=True), bits=widths)
def test_unit_error(data: st.DataObject, x: Tensor, bits: int) -> None:
    packed, low = place(data, x, "pack_dim"), data.draw(st.sampled_from([-1.0, 0.0]), label="low")
    x = x if low else x.abs()
    codes, poison = OPS["quantize_unit"].overload(x, low, 1.0, bits, packed)
    decoded = OPS["dequantize_unit"].overload(codes, poison, low, 1.0, bits, packed, x.shape[packed], x.dtype)
    assert_layout(codes, decoded, x)
    assert poison.tolist() == [0.0]
    edge, step = fixed_range.grid_of(low, 1.0, bits)
    assert_within(decoded, x, edge, step, bits, torch.ones_like(x, dtype=torch.bool))
    if bits > 1:
        assert torch.equal(decoded[x == 1], x[x == 1]) and torch.equal(decoded[x == low], x[x == low])


@quick
@given(data=st.data(), x=tensors(unit=True, special=True), bits=widths)
def test_unit_nan(data: st.DataObject, x: Tensor, bits: int) -> None:
    assume(x.numel() > 0 and not bool(x.isfinite().all()))
    packed = place(data, x, "pack_dim")
    codes, poison = OPS["quantize_unit"].overload(x, -1.0, 1.0, bits, packed)
    decoded = OPS["dequantize_unit"].overload(codes, poison, -1.0, 1.0, bits, packed, x.shape[packed], x.dtype)
    assert decoded.isnan().all()


@quick
@given(data=st.data(), x=tensors(), bits=widths)
def test_row_error(data: st.DataObject, x: Tensor, bits: int) -> None:
    """Within half a step of z, in the window; beyond it, the window's last bin. rstd is the row's own."""
    dim, packed = place(data, x, "dim"), place(data, x, "pack_dim")
    mean, rstd = statistics(x, dim)
    codes = OPS["quantize_row"].overload(x, mean, rstd, bits, "gaussian", packed)
    decoded = OPS["dequantize_row"].overload(
        codes, mean, rstd, False, bits, "gaussian", packed, x.shape[packed], torch.float32
    )
    step = channel.step_in_sigmas(bits, "gaussian")
    z, back = ((value.double() - mean) * rstd for value in (x, decoded))
    edge = 2 ** (bits - 1) * step
    size = 1 + (mean.abs() * rstd).double()  # what float32 may lose where the mean outweighs the deviation
    assert ((z.clamp(-edge, edge) - back).abs() <= step / 2 + 64 * ROUNDOFF * size * (1 + z.abs())).all()


@quick
@given(data=st.data(), x=tensors(special=True), bits=widths)
def test_row_nan(data: st.DataObject, x: Tensor, bits: int) -> None:
    """A row that holds a NaN or Inf decodes to NaN, normalised or not; the others stay numbers."""
    dim, packed = place(data, x, "dim"), place(data, x, "pack_dim")
    mean, rstd = statistics(x, dim)
    touched = (~x.isfinite()).any(dim, keepdim=True).expand(x.shape)
    for normal in (False, True):
        value = ((x.float() - mean) * rstd).to(x.dtype) if normal else x
        given_ = (None, None) if normal else (mean, rstd)
        codes = OPS["quantize_row"].overload(value, *given_, bits, "gaussian", packed)
        decoded = OPS["dequantize_row"].overload(
            codes, None if normal else mean, rstd, normal, bits, "gaussian", packed, x.shape[packed], torch.float32
        )
        assert decoded[touched].isnan().all() and decoded[~touched].isfinite().all()


@quick
@given(data=st.data(), x=tensors(), bits=widths)
def test_index(data: st.DataObject, x: Tensor, bits: int) -> None:
    packed = place(data, x, "pack_dim")
    whole = (x.float().nan_to_num().abs() * 97).remainder(2**bits).long()
    codes = OPS["quantize_index"].overload(whole, bits, packed)
    back = OPS["dequantize_index"].overload(codes, bits, packed, x.shape[packed], torch.int64)
    assert torch.equal(back, whole)


@quick
@given(data=st.data(), x=tensors(positive=True), bits=widths, key=st.integers(0, 2**31 - 1))
def test_stochastic_error(data: st.DataObject, x: Tensor, bits: int, key: int) -> None:
    """Within one step, not half of one; with a side given, code 0 exactly off it."""
    tiling, packed = Tiling.draw(data, x), place(data, x, "pack_dim")
    where = [bits, tiling.dim, tiling.group, tiling.over, packed]
    tail = [bits, tiling.dim, tiling.group, packed, x.shape[packed], torch.float32]
    for side in (None, x > 0) if bits > 1 else (None,):
        codes, scale = OPS["quantize_stochastic"].overload(x, side, torch.tensor(key), *where)
        decoded = OPS["dequantize_stochastic"].overload(codes, scale, side is not None, *tail)
        step = tiling.spread(scale[1].double(), x)
        assert ((decoded.double() - x.double()).abs() <= step * (1 + 1e-3) + 1e-30).all()
        if side is not None:
            assert torch.equal(OPS["dequantize_relu_side"].overload(codes, bits, packed, x.shape[packed]), side)
            assert not decoded[~side].any()


@quick
@given(data=st.data(), x=tensors(special=True))
def test_bitmask(data: st.DataObject, x: Tensor) -> None:
    packed, mask = place(data, x, "pack_dim"), x > 0
    codes = OPS["quantize_bitmask"].overload(mask, packed)
    back = OPS["dequantize_bitmask"].overload(codes, packed, x.shape[packed])
    assert torch.equal(back, mask)
    assert_layout(codes, back, mask)
