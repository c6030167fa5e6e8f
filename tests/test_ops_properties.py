"""What holds for every tensor, whatever its shape, strides, dtype, and for every width.

Errors stay within half a step, masks are exact, NaN and Inf come through, fake implementations are as the real ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from approx_fx.ops import OPS, channel, unit
from approx_fx.ops.pack import dense_strides, memory_order, unpack

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# float32's unit roundoff: the references compute in float32, in no more than eight rounded steps.
ROUNDOFF = 2.0**-24

quick = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
widths = st.integers(1, 8)


def strided(x: Tensor, layout: str, place: int) -> Tensor:
    """The same values as x, for an expanded layout but the first of a dimension's, with other strides."""
    dim = place % x.ndim
    if layout == "permuted":
        order = [*range(dim, x.ndim), *range(dim)][:: 1 if place % 2 else -1]
        return x.permute(order).contiguous().permute([order.index(index) for index in range(x.ndim)])
    if layout == "sliced":
        return torch.cat([x, x], dim).narrow(dim, x.shape[dim] // 2, x.shape[dim]).roll(1, dim)
    if layout == "stepped":
        return torch.stack([x, x], x.ndim)[..., 1]
    if layout == "expanded":
        return x.narrow(dim, 0, min(x.shape[dim], 1)).expand(x.shape)
    if layout == "channels last" and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x


@st.composite
def tensors(draw: st.DrawFn, special: bool = False, positive: bool = False, unit: bool = False) -> Tensor:
    """A tensor of one to four dimensions of length 0 to 9; if special, some of its elements NaN or Inf."""
    shape = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
    dtype = draw(st.sampled_from(FLOATS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    if unit:
        x = torch.rand(shape, generator=generator) * 2 - 1
        x = torch.where(torch.rand(shape, generator=generator) < 0.2, x.sign(), x)
    else:
        # Magnitudes that the scales' bfloat16 holds as normal numbers, and that float16 can decode.
        powers = (-3, 3) if dtype == torch.float16 else (-30, 30)
        size = draw(st.integers(*powers)) + draw(st.sampled_from([0.0, 0.0, 1.0])) * torch.randn(
            shape, generator=generator
        ).clamp(-1, 1)
        x = torch.randn(shape, generator=generator).clamp(-5, 5) * 10**size
        x = x + draw(st.sampled_from([0.0, 0.0, 1.0, -4.0])) * 10.0 ** float(size.mean() if x.numel() else 0.0)
        x = torch.where(torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.2, 1.0])), 0.0, x)
    x = x.relu() if positive else x
    if special and x.numel():
        places = torch.randint(0, x.numel(), (draw(st.integers(1, 3)),), generator=generator)
        values = draw(st.sampled_from([math.nan, math.inf] if positive else [math.nan, math.inf, -math.inf]))
        x = x.reshape(-1).index_fill(0, places, values).reshape(shape)
    layout = draw(st.sampled_from(["contiguous", "permuted", "sliced", "stepped", "expanded", "channels last"]))
    return strided(x.to(dtype), layout, draw(st.integers(0, 7)))


@dataclass(frozen=True)
class Tiling:
    """How tiles lie in a tensor: `group` neighbours along dim, everything along `over`."""

    dim: int
    group: int
    over: list[int]

    @classmethod
    def draw(cls, data: st.DataObject, x: Tensor) -> Tiling:
        dim = data.draw(st.integers(0, x.ndim - 1), label="dim")
        size = x.shape[dim]
        group = data.draw(
            st.sampled_from([part for part in range(1, size + 1) if size % part == 0] or [1]), label="group"
        )
        others = [index for index in range(x.ndim) if index != dim]
        return cls(
            dim, group, data.draw(st.lists(st.sampled_from(others), unique=True), label="over") if others else []
        )

    def spread(self, scale: Tensor, x: Tensor) -> Tensor:
        """A scale's value for each element of x."""
        split = x.unflatten(self.dim, (x.shape[self.dim] // self.group, self.group))
        return scale.expand(split.shape).flatten(self.dim, self.dim + 1)

    def of_any(self, marked: Tensor) -> Tensor:
        """bool: whether an element's tile holds a marked one."""
        split = marked.unflatten(self.dim, (marked.shape[self.dim] // self.group, self.group))
        for index in [self.dim + 1, *(index + (index > self.dim) for index in self.over)]:
            split = split.any(index, keepdim=True)
        return self.spread(split, marked)


def place(data: st.DataObject, x: Tensor, label: str) -> int:
    return data.draw(st.integers(0, x.ndim - 1), label=label)


def allowance(low: Tensor | float, step: Tensor | float, bits: int, decoded: Tensor) -> Tensor:
    """What rounding may add to half a step: of float32 arithmetic, and of the result to its dtype."""
    info = torch.finfo(decoded.dtype)
    arithmetic = 8 * ROUNDOFF * (abs(low) + 2**bits * abs(step))
    return arithmetic + decoded.double().abs() * info.eps / 2 + info.smallest_normal * info.eps


def assert_within(
    decoded: Tensor, x: Tensor, low: Tensor | float, step: Tensor | float, bits: int, where: Tensor
) -> None:
    """Where `where` holds, x lies within half a step of what was decoded for it."""
    error = (decoded.double() - x.double()).abs()
    bound = 0.5 * torch.as_tensor(step).abs() + allowance(low, step, bits, decoded)
    assert bool((error <= bound)[where].all()), f"{(error / bound)[where].max()} times the bound"


def assert_layout(codes: Tensor, decoded: Tensor, x: Tensor) -> None:
    """Codes and decoded values keep the memory order of the tensor that was quantized, lengths of 1 aside."""
    order = memory_order(x)
    assert decoded.shape == x.shape
    for result in (codes, decoded):
        expected = dense_strides(result.shape, order)
        assert all(size == 1 or result.stride(dim) == expected[dim] for dim, size in enumerate(result.shape))


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


def channel_rows(
    x: Tensor, dim: int, weight: Tensor | None, bias: Tensor | None, threshold: float | None, bits: int, grid: str
) -> Tensor:
    """The grid of x's own statistics along all dimensions but `dim`."""
    flat = x.double().movedim(dim, 0).flatten(1) if x.ndim > 1 else x.double()[:, None]
    count = max(flat.shape[1], 1)
    mean = flat.sum(1) / count
    rstd = ((flat - mean[:, None]).square().sum(1) / count + 1e-30).rsqrt()
    return channel.channel_grid.overload(mean.float(), rstd.float(), weight, bias, threshold, bits, grid)


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
    edge, step = unit.grid_of(low, 1.0, bits)
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


@quick
@given(data=st.data(), x=tensors(special=True), bits=widths)
def test_values_do_not_depend_on_strides(data: st.DataObject, x: Tensor, bits: int) -> None:
    for name, arguments in quantizers(data, x, bits):
        plain = [value.contiguous() if isinstance(value, Tensor) else value for value in arguments]
        torch.testing.assert_close(
            OPS[name].overload(*arguments),
            OPS[name].overload(*plain),
            rtol=0,
            atol=0,
            equal_nan=True,
            check_stride=False,
        )


def quantizers(data: st.DataObject, x: Tensor, bits: int) -> list[tuple[str, list[Any]]]:
    """Every op that encodes x, with arguments."""
    tiling, packed = Tiling.draw(data, x), place(data, x, "pack_dim")
    rows = channel_rows(x, tiling.dim, None, None, 0.0, bits, "gaussian")
    side = x > 0
    return [
        ("quantize_channel", [x, rows, side, bits, tiling.dim, packed]),
        ("quantize_group", [x, bits, tiling.dim, tiling.group, tiling.over, packed]),
        ("quantize_relu", [x.relu(), side, bits, tiling.dim, tiling.group, tiling.over, packed]),
        ("quantize_unit", [x, -1.0, 1.0, bits, packed]),
        ("quantize_bitmask", [side, packed]),
        ("quantize_row", [x, *statistics(x, tiling.dim), bits, "gaussian", packed]),
        ("quantize_index", [(x > 0).to(torch.int8), bits, packed]),
        ("quantize_stochastic", [x, None, torch.tensor(7), bits, tiling.dim, tiling.group, tiling.over, packed]),
    ]


def statistics(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """(mean, 1 / sigma) of the rows along `dim`, as a layer norm has them."""
    if x.shape[dim] == 0:
        return x.float().sum(dim, keepdim=True), x.float().sum(dim, keepdim=True) + 1
    variance, mean = torch.var_mean(x.float(), dim, correction=0, keepdim=True)
    return mean, torch.rsqrt(variance + 1e-5)


def decoders(name: str, arguments: list[Any], stored: list[Tensor]) -> list[tuple[str, list[Any]]]:
    """Every op that decodes what the quantizer `name` stored, with arguments."""
    x, packed = arguments[0], arguments[-1]
    length, dtype = x.shape[packed], x.dtype
    if name == "quantize_channel":
        _, rows, _, bits, dim, _ = arguments
        return [
            ("dequantize_channel", [*stored, rows, bits, dim, packed, length, dtype]),
            ("dequantize_channel_side", [*stored, rows, bits, dim, packed, length]),
        ]
    if name in ("quantize_group", "quantize_relu"):
        bits, dim, group = arguments[-5:-2]
        found = [(f"de{name}", [*stored, bits, dim, group, packed, length, dtype])]
        if name == "quantize_relu":
            found.append(("dequantize_relu_side", [stored[0], bits, packed, length]))
        return found
    if name == "quantize_row":
        _, mean, rstd, bits, grid, _ = arguments
        return [("dequantize_row", [*stored, mean, rstd, False, bits, grid, packed, length, dtype])]
    if name == "quantize_index":
        return [("dequantize_index", [*stored, arguments[1], packed, length, dtype])]
    if name == "quantize_stochastic":
        _, _, _, bits, dim, group, *_ = arguments
        return [("dequantize_stochastic", [*stored, False, bits, dim, group, packed, length, dtype])]
    if name == "quantize_unit":
        return [("dequantize_unit", [*stored, *arguments[1:4], packed, length, dtype])]
    return [("dequantize_bitmask", [*stored, packed, length])]


def outputs(result: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


@quick
@given(data=st.data(), x=tensors(), bits=widths)
def test_fake_is_as_real(data: st.DataObject, x: Tensor, bits: int) -> None:
    """The fake implementations give the shapes, dtypes and strides of the real ones, for encoders and decoders."""
    for name, arguments in quantizers(data, x, bits):
        stored = outputs(OPS[name].overload(*arguments))
        for op, given_ in [(name, arguments), *decoders(name, arguments, stored)]:
            mode = FakeTensorMode()
            faked = [mode.from_tensor(value) if isinstance(value, Tensor) else value for value in given_]
            with mode:
                fake = outputs(OPS[op].overload(*faked))
            real = outputs(OPS[op].overload(*given_))
            for one, other in zip(fake, real, strict=True):
                assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride()), op


@quick
@given(data=st.data(), x=tensors(), bits=widths)
def test_channel_grid_fake_is_as_real(data: st.DataObject, x: Tensor, bits: int) -> None:
    mean, rstd = x, x.abs() + 1
    real = channel.channel_grid.overload(mean, rstd, None, None, 0.0, bits, "blpa")
    mode = FakeTensorMode()
    faked = mode.from_tensor(mean), mode.from_tensor(rstd)
    with mode:
        fake = channel.channel_grid.overload(*faked, None, None, 0.0, bits, "blpa")
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
