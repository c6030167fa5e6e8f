"""The ops by example: packed bytes spelled out, grids against the paper's formula, its flaws, opcheck, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from approx_fx.ops import OPS, bitmask, channel, fixed_range, group, index, reference_of, row, stochastic
from approx_fx.ops.pack import pack, packed_length, unpack

WIDTHS = range(1, 9)
every_width = pytest.mark.parametrize("bits", WIDTHS)

X = torch.linspace(-1, 1, 2 * 4 * 3 * 3).reshape(2, 4, 3, 3)
STATISTICS = (torch.zeros(4), torch.ones(4), torch.tensor([1.0, -1, 2, 0]), torch.tensor([0.5, 0.5, -9, 1]))
INDEX = torch.arange(X.numel()).remainder(4).reshape(X.shape)
KEY = torch.tensor(12345)
LAST = X.contiguous(memory_format=torch.channels_last)


def opcheck_cases() -> list[tuple[str, tuple[Any, ...]]]:
    grid = channel.channel_grid.reference(*STATISTICS, 0.0, 4, "gaussian")
    six = channel.channel_grid.reference(*STATISTICS, 0.0, 4, "gaussian", torch.ones(4))
    codes = channel.quantize_channel.reference(X, grid, X > 0, 4, 1, 0)
    group_codes, group_scale = group.quantize_group.reference(X, 3, 1, 2, [2, 3], 1)
    relu_codes, relu_scale = group.quantize_relu.reference(X.relu(), None, 4, 1, 2, [], 1)
    unit_codes, poison = fixed_range.quantize_unit.reference(X, -1.0, 1.0, 5, 0)
    mask_codes = bitmask.quantize_bitmask.reference(X > 0, 1)
    row_codes = row.quantize_row.reference(X, None, None, 4, "gaussian", 1)
    index_codes = index.quantize_index.reference(INDEX, 2, 1)
    random_codes, random_scale = stochastic.quantize_stochastic.reference(X, None, KEY, 4, 1, 2, [], 1)
    return [
        ("channel_grid", (*STATISTICS, 0.0, 4, "gaussian")),
        ("channel_grid", (*STATISTICS[:2], None, None, None, 2, "blpa")),
        ("channel_grid", (*STATISTICS, 0.0, 4, "gaussian", torch.ones(4))),
        ("quantize_channel", (X, grid, X > 0, 4, 1, 0)),
        ("quantize_channel", (LAST.bfloat16(), grid, None, 3, 1, 1)),
        ("dequantize_channel", (codes, grid, 4, 1, 0, 2, torch.float16)),
        ("dequantize_channel_side", (codes, grid, 4, 1, 0, 2)),
        ("dequantize_centred", (codes, grid, 4, "gaussian", False, 1, 0, 2, torch.float32)),
        ("dequantize_centred", (codes, None, 4, "blpa", True, 1, 0, 2, torch.bfloat16)),
        ("dequantize_centred", (codes, six, 4, "gaussian", False, 1, 0, 2, torch.float16)),
        ("dequantize_centred", (codes, six, 4, "gaussian", True, 1, 0, 2, torch.float32)),
        ("quantize_group", (X, 3, 1, 2, [2, 3], 1)),
        ("quantize_group", (LAST, 4, 1, 2, [], 0)),
        ("dequantize_group", (group_codes, group_scale, 3, 1, 2, 1, 4, torch.float32)),
        ("quantize_relu", (X.relu(), None, 4, 1, 2, [], 1)),
        ("quantize_relu", (LAST.relu(), LAST > 0, 1, 1, 4, [0, 2, 3], 3)),
        ("dequantize_relu", (relu_codes, relu_scale, 4, 1, 2, 1, 4, torch.bfloat16)),
        ("dequantize_relu_side", (relu_codes, 4, 1, 4)),
        # Eight bits are not packed: codes must not come out as the very tensor that went in.
        ("dequantize_relu_side", (X.to(torch.uint8), 8, 1, 4)),
        ("quantize_relu", (X.relu(), X > 0, 8, 1, 2, [], 1)),
        ("quantize_unit", (X, -1.0, 1.0, 5, 0)),
        ("dequantize_unit", (unit_codes, poison, -1.0, 1.0, 5, 0, 2, torch.float32)),
        ("quantize_bitmask", (X > 0, 1)),
        ("dequantize_bitmask", (mask_codes, 1, 4)),
        ("quantize_row", (X, X.mean(1, keepdim=True), 1 / X.std(1, keepdim=True), 4, "gaussian", 1)),
        ("quantize_row", (LAST, None, None, 8, "blpa", 1)),
        ("dequantize_row", (row_codes, None, 1 / X.std(1, keepdim=True), True, 4, "gaussian", 1, 4, torch.float16)),
        ("quantize_index", (INDEX, 2, 1)),
        ("quantize_index", (INDEX.to(torch.uint8), 8, 1)),
        ("dequantize_index", (index_codes, 2, 1, 4, torch.int64)),
        ("dequantize_index", (INDEX.to(torch.uint8), 8, 1, 4, torch.uint8)),
        ("quantize_stochastic", (X, None, KEY, 4, 1, 2, [], 1)),
        ("quantize_stochastic", (LAST.relu(), LAST > 0, KEY, 8, 1, 4, [2, 3], 1)),
        ("short_tanh", (LAST,)),
        ("short_tanh", (LAST.bfloat16(),)),
        ("dequantize_stochastic", (random_codes, random_scale, False, 4, 1, 2, 1, 4, torch.bfloat16)),
    ]


def test_opcheck_covers_every_op() -> None:
    assert {name for name, _ in opcheck_cases()} == set(OPS)


@pytest.mark.parametrize(
    ("name", "arguments"), opcheck_cases(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_opcheck(name: str, arguments: tuple[Any, ...]) -> None:
    """Schema (no output is an input), autograd registration, fake implementation, dynamic shapes."""
    result = torch.library.opcheck(OPS[name].definition, arguments)
    assert set(result.values()) == {"SUCCESS"} and len(result) == 4


def test_reference_of() -> None:
    assert reference_of(torch.ops.approx_fx.quantize_unit.default) is OPS["quantize_unit"].reference
    assert reference_of(torch.ops.aten.add.Tensor) is None
    assert reference_of("output") is None


# The channel quantizer against the paper's formula.


def paper(x: Tensor, gamma: Tensor, beta: Tensor, bits: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """BLPA (Chakrabarti & Moseley 2019), float64: (codes, decoded x, how far each ratio is from a whole number).

    x: [N, C]; gamma > 0. Along a channel a = (x - mean) / sqrt(var + eps) + beta / gamma, the shift puts a's range in
    [0, 2^K), and ReLU's mask is code >= shift.
    """
    x, gamma, beta = x.double(), gamma.double(), beta.double()
    mean, sigma = x.mean(0), (x.var(0, unbiased=False) + eps).sqrt()
    b = beta / gamma
    ratio = ((x - mean) / sigma + b) * 2**bits / 6
    shift = (2 ** (bits - 1) - (b * 2**bits / 6).floor()).clamp(min=1)
    codes = (ratio.floor() + shift).clamp(0, 2**bits - 1)
    decoded = ((codes + 0.5 - shift) * 6 / 2**bits - b) * sigma + mean
    return codes, decoded, (ratio - ratio.round()).abs()


def statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(mean, 1 / sigma) of each channel of [N, C], as batch norm saves them."""
    return x.mean(0), (x.var(0, unbiased=False) + eps).rsqrt()


@pytest.mark.parametrize("bits", range(2, 9))
def test_blpa_is_the_papers(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(500, 6, generator=generator) * 3 + 1
    gamma = torch.rand(6, generator=generator) + 0.5
    # Up to half of the window: there the paper's shift leaves codes for both sides.
    beta = gamma * torch.tensor([-1.4, -0.7, -0.1, 0.2, 0.8, 1.4])
    grid = channel.channel_grid.reference(*statistics(x, 1e-5), gamma, beta, 0.0, bits, "blpa")
    codes = channel.quantize_channel.reference(x, grid, None, bits, 1, 0)
    decoded = channel.dequantize_channel.reference(codes, grid, bits, 1, 0, 500, torch.float32)
    expected_codes, expected, margin = paper(x, gamma, beta, bits, 1e-5)
    clear = margin > 1e-4
    assert clear.float().mean() > 0.95
    assert torch.equal(unpack(codes, bits, 0, 500)[clear].double(), expected_codes[clear])
    torch.testing.assert_close(decoded[clear].double(), expected[clear], rtol=1e-5, atol=1e-5)
    side = channel.dequantize_channel_side.reference(codes, grid, bits, 1, 0, 500)
    z = (x.double() - x.double().mean(0)) / (x.double().var(0, unbiased=False) + 1e-5).sqrt()
    assert torch.equal(side[clear], (gamma * z + beta > 0)[clear])


def round_trip(x: Tensor, gamma: Tensor, beta: Tensor, bits: int, grid: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(decoded x, decoded side, the forward's side, step in x per channel) of x, [N, C], before batch norm and ReLU."""
    mean, rstd = statistics(x, 1e-5)
    side = (x - mean) * rstd * gamma + beta > 0
    rows = channel.channel_grid.reference(mean, rstd, gamma, beta, 0.0, bits, grid)
    codes = channel.quantize_channel.reference(x, rows, side, bits, 1, 0)
    decoded = channel.dequantize_channel.reference(codes, rows, bits, 1, 0, len(x), x.dtype)
    return decoded, channel.dequantize_channel_side.reference(codes, rows, bits, 1, 0, len(x)), side, rows[1].abs()


# Beyond the paper: thresholds off the data's range, gamma negative or 0, a batch that the pack factor does not divide.
BEYOND = [-50.0, -3.5, 3.5, 1e4, -1e30, 1e30]


@pytest.mark.parametrize("grid", channel.GRIDS)
@every_width
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_threshold_beyond_the_data(bits: int, grid: str, sign: float) -> None:
    x = torch.randn(511, len(BEYOND), generator=torch.Generator().manual_seed(bits)).clamp(-3, 3)
    gamma = torch.full((len(BEYOND),), 0.7 * sign)
    decoded, side, expected, step = round_trip(x, gamma, torch.tensor(BEYOND) * 0.7, bits, grid)
    assert torch.equal(side, expected)
    # The window stays on the data: one bin at its edge is lost to the other side, where nothing lies.
    half = 2 ** (bits - 1) * step
    inside = (x - x.mean(0)).abs() < half
    assert inside.float().mean() > 0.6
    lost = 1.0 if bits > 1 else 2.0
    assert ((decoded - x).abs() <= (0.5 + lost) * step + 1e-4)[inside].all()
    assert ((decoded - x).abs() > 0.5 * step + 1e-4)[inside].float().mean() < (0.2 if bits > 1 else 0.6)


@pytest.mark.parametrize("grid", channel.GRIDS)
@every_width
def test_gamma_negative_or_zero(bits: int, grid: str) -> None:
    x = torch.randn(333, 4, generator=torch.Generator().manual_seed(bits))
    gamma, beta = torch.tensor([-1.5, -0.01, 0.0, 0.0]), torch.tensor([0.4, -0.002, 0.3, -0.3])
    decoded, side, expected, step = round_trip(x, gamma, beta, bits, grid)
    assert torch.equal(side, expected)
    assert expected[:, 2].all() and not expected[:, 3].any()
    assert 0.1 < expected[:, 0].float().mean() < 0.9
    inside = (x - x.mean(0)).abs() < 2 ** (bits - 1) * step
    # All codes are free for the data of a channel that lies on one side; elsewhere some lie across the threshold.
    assert ((decoded - x).abs() <= 0.5 * step + 1e-5)[:, 2:][inside[:, 2:]].all()
    if bits > 2:
        close = ((decoded - x).abs() <= 0.5 * step + 1e-5)[:, :2]
        assert close[inside[:, :2]].float().mean() > 0.7


@every_width
@pytest.mark.parametrize("batch", [1, 3, 5, 7, 9, 13])
def test_batch_not_divided_by_the_pack_factor(bits: int, batch: int) -> None:
    x = torch.randn(batch, 4, 3, 3, generator=torch.Generator().manual_seed(batch))
    side = x > 0.1
    rows = channel.channel_grid.reference(torch.zeros(4), torch.ones(4), None, None, 0.1, bits, "gaussian")
    codes = channel.quantize_channel.reference(x, rows, side, bits, 1, 0)
    assert codes.shape[0] == packed_length(batch, bits)
    assert torch.equal(channel.dequantize_channel_side.reference(codes, rows, bits, 1, 0, batch), side)


def test_channel_of_nan_statistics() -> None:
    """Values of a NaN channel are NaN, its side exact, the other channels as ever."""
    x = torch.randn(8, 3)
    x[2, 1] = math.nan
    mean, rstd = statistics(x, 1e-5)
    side = ~(x <= 0)
    for gamma in (torch.ones(3), torch.tensor([1.0, math.nan, 1])):
        rows = channel.channel_grid.reference(mean, rstd, gamma, torch.zeros(3), 0.0, 3, "gaussian")
        codes = channel.quantize_channel.reference(x, rows, side, 3, 1, 0)
        decoded = channel.dequantize_channel.reference(codes, rows, 3, 1, 0, 8, torch.float32)
        assert decoded[:, 1].isnan().all() and decoded[:, [0, 2]].isfinite().all()
        assert torch.equal(channel.dequantize_channel_side.reference(codes, rows, 3, 1, 0, 8), side)


@every_width
def test_max_steps_lose_least(bits: int) -> None:
    """The default grid's reason to be: of all steps, its own have the least mean square error on a Gaussian."""
    z = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    density = torch.exp(-z * z / 2)

    def error(step: float) -> float:
        codes = (torch.floor(z / step) + 2 ** (bits - 1)).clamp(0, 2**bits - 1)
        return float((((codes + 0.5 - 2 ** (bits - 1)) * step - z) ** 2 * density).sum())

    best = channel.step_in_sigmas(bits, "gaussian")
    assert error(best) < min(error(best * 0.99), error(best * 1.01))


@every_width
@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_threshold_is_a_bins_edge(bits: int, threshold: float) -> None:
    """The level's lower edge is where gamma z + beta = threshold, and the window is centred to half a step."""
    limit = (2 ** (bits - 1) - 1) * channel.step_in_sigmas(bits, "gaussian")
    gamma, mean, rstd = torch.tensor([2.0, -2.0]).repeat(50), torch.full((100,), 3.0), torch.full((100,), 0.25)
    beta = threshold + torch.linspace(-2, 2, 100) * limit
    low, step, level, inverse = channel.channel_grid.reference(mean, rstd, gamma, beta, threshold, bits, "gaussian")
    edge = low + level * step
    torch.testing.assert_close(gamma * (edge - mean) * rstd + beta, torch.full((100,), threshold), rtol=0, atol=1e-4)
    assert ((low + 2 ** (bits - 1) * step - mean).abs() <= 0.501 * step.abs()).all()
    assert torch.equal(step > 0, gamma > 0)
    torch.testing.assert_close(inverse * step, torch.ones(100))


# The other quantizers by example.


def test_unit_values() -> None:
    """Thirds of the range, both ends included; one bit has the middles of two halves."""
    x = torch.tensor([0.0, 0.16, 0.25, 0.6, 1.0, 1.5, -0.1])
    codes, poison = fixed_range.quantize_unit.reference(x, 0.0, 1.0, 2, 0)
    assert unpack(codes, 2, 0, 7).tolist() == [0, 0, 1, 2, 3, 3, 0]
    decoded = fixed_range.dequantize_unit.reference(codes, poison, 0.0, 1.0, 2, 0, 7, torch.float32)
    torch.testing.assert_close(decoded, torch.tensor([0, 0, 1, 2, 3, 3, 0]) / 3)
    codes, poison = fixed_range.quantize_unit.reference(x, 0.0, 1.0, 1, 0)
    decoded = fixed_range.dequantize_unit.reference(codes, poison, 0.0, 1.0, 1, 0, 7, torch.float32)
    assert decoded.tolist() == [0.25, 0.25, 0.25, 0.75, 0.75, 0.75, 0.25]


def test_group_values() -> None:
    x = torch.tensor([[0.0, 1.0, 2.0, 3.9], [-8.0, -8.0, -8.0, -8.0]])
    codes, scale = group.quantize_group.reference(x, 2, 1, 4, [], 1)
    assert scale.shape == (2, 2, 1, 1) and scale.dtype == torch.bfloat16
    # Rounded outwards: low 0 and -8 (1 + 2^-7), steps 3.9 / 4 and 2^-7 8 / 4, each (1 + 2^-7) times, in bfloat16.
    assert scale.flatten().tolist() == [0.0, -8.0625, 0.984375, 0.0157470703125]
    assert unpack(codes, 2, 1, 4).tolist() == [[0, 1, 2, 3], [3, 3, 3, 3]]
    decoded = group.dequantize_group.reference(codes, scale, 2, 1, 4, 1, 4, torch.float32)
    assert decoded[0].tolist() == [0.984375 * middle for middle in (0.5, 1.5, 2.5, 3.5)]


def test_relu_values() -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.1])
    codes, scale = group.quantize_relu.reference(x, None, 2, 0, 5, [], 0)
    step = scale.item()
    assert step == 1.0078125
    assert unpack(codes, 2, 0, 5).tolist() == [0, 1, 2, 3, 1]
    decoded = group.dequantize_relu.reference(codes, scale, 2, 0, 5, 0, 5, torch.float32)
    assert decoded.tolist() == [0.0, 0.5 * step, 1.5 * step, 2.5 * step, 0.5 * step]
    given = torch.tensor([True, False, True, False, True])
    codes, _ = group.quantize_relu.reference(x, given, 2, 0, 5, [], 0)
    assert torch.equal(group.dequantize_relu_side.reference(codes, 2, 0, 5), given)


def test_constant_and_empty_tiles() -> None:
    zeros = torch.zeros(4, 6)
    codes, scale = group.quantize_group.reference(zeros, 3, 1, 3, [], 0)
    assert not scale.any()
    assert torch.equal(group.dequantize_group.reference(codes, scale, 3, 1, 3, 0, 4, torch.float32), zeros)
    empty = torch.zeros(2, 6, 0)
    codes, scale = group.quantize_group.reference(empty, 3, 1, 3, [2], 0)
    assert codes.shape == (3, 6, 0) and scale.shape == (2, 2, 2, 1, 1) and not scale.any()
    codes, scale = group.quantize_relu.reference(empty, None, 3, 1, 3, [0, 2], 1)
    assert codes.shape == (2, 3, 0) and scale.shape == (1, 2, 1, 1) and not scale.any()
    assert group.dequantize_relu.reference(codes, scale, 3, 1, 3, 1, 6, torch.float16).shape == (2, 6, 0)


def test_refused() -> None:
    x, rows = torch.zeros(4, 6), torch.ones(4, 6)
    with pytest.raises(KeyError):
        pack(torch.zeros(4, dtype=torch.uint8), 9, 0)
    with pytest.raises(IndexError):
        OPS["quantize_unit"].overload(torch.tensor(0.5), 0.0, 1.0, 4, 0)
    with pytest.raises(RuntimeError):
        OPS["quantize_group"].overload(x, 4, 1, 4, [], 0)
    with pytest.raises(RuntimeError):
        OPS["quantize_channel"].overload(x, rows[:, :5], None, 4, 1, 0)
    with pytest.raises(RuntimeError):
        OPS["dequantize_bitmask"].overload(torch.zeros(1, dtype=torch.uint8), 0, 9)


@every_width
@pytest.mark.parametrize("threshold", [None, 0.0, 0.5])
@pytest.mark.parametrize("kind", ["gaussian", "blpa"])
def test_centred_is_the_value_less_its_mean(bits: int, kind: str, threshold: float | None) -> None:
    """x - mean, and in sigmas, also where gamma is negative, small or 0 and the mask lies far from the mean."""
    x = 3 * torch.randn(6, 4, 5, 5) + torch.tensor([-2.0, 0, 0.5, 9]).reshape(1, 4, 1, 1)
    mean, rstd = statistics(x.transpose(0, 1).flatten(1).t(), 1e-5)
    gamma, beta = torch.tensor([1.5, -0.7, 0.0, 1e-3]), torch.tensor([0.4, 0.3, -1.0, 2.0])
    grid = channel.channel_grid.reference(mean, rstd, gamma, beta, threshold, bits, kind, 1 / rstd)
    assert len(grid) == (4 if threshold is None else 6)
    plain = channel.channel_grid.reference(mean, rstd, gamma, beta, threshold, bits, kind)
    torch.testing.assert_close(grid[:4], plain)
    codes = channel.quantize_channel.reference(x, grid, None, bits, 1, 0)
    decoded = channel.dequantize_channel.reference(codes, plain, bits, 1, 0, 6, torch.float32)
    centred = decoded - mean.reshape(1, 4, 1, 1)
    given = (1, 0, 6, torch.float32)
    found = channel.dequantize_centred.reference(codes, grid, bits, kind, False, *given)
    torch.testing.assert_close(found, centred, rtol=0, atol=2e-5)
    for_sigmas = grid if threshold is not None else None
    found = channel.dequantize_centred.reference(codes, for_sigmas, bits, kind, True, *given)
    torch.testing.assert_close(found, centred * rstd.reshape(1, 4, 1, 1), rtol=0, atol=1e-5)
