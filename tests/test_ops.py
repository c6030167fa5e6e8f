"""The ops' references: registration, expected numbers on tiny tensors, and BLPA's grid against the paper's formula."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from approx_fx.ops import OPS, reference_of
from approx_fx.ops import pack as packing

NAN = float("nan")
T, F = True, False


def call(name: str, *arguments: Any) -> Any:
    return OPS[name].overload(*arguments)


def samples() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Arguments for every op: contiguous, channels last with padding, transposed, and of no elements."""
    torch.manual_seed(0)
    plain, last = torch.randn(4, 6, 2, 3), torch.randn(3, 4, 5, 3).to(memory_format=torch.channels_last)
    turned, empty = torch.randn(5, 3).bfloat16().T, torch.zeros(2, 0, 3, dtype=torch.float16)
    for x, bits, pack_dim in ((plain, 2, 1), (last, 3, 0), (turned, 5, 1), (empty, 4, 0)):
        channels, length = x.shape[1], x.shape[pack_dim]
        mean, rstd, weight, bias = torch.randn(channels), torch.rand(channels), torch.randn(channels), None
        yield "channel_grid", (mean, rstd, weight, bias, 0.0, bits, "blpa")
        yield "channel_grid", (mean, rstd, None, mean, None, bits, "gaussian")
        grid = call("channel_grid", mean, rstd, weight, bias, 0.0, bits, "gaussian")
        yield "quantize_channel", (x, grid, None, bits, 1, pack_dim)
        yield "quantize_channel", (x, grid, x > 0, bits, 1, pack_dim)
        codes = call("quantize_channel", x, grid, None, bits, 1, pack_dim)
        yield "dequantize_channel", (codes, grid, bits, 1, pack_dim, length, x.dtype)
        yield "dequantize_channel_side", (codes, grid, bits, 1, pack_dim, length)
        yield "quantize_group", (x, bits, 1, max(channels, 1), [0], pack_dim)
        codes, scale = call("quantize_group", x, bits, 1, max(channels, 1), [0], pack_dim)
        yield "dequantize_group", (codes, scale, bits, 1, max(channels, 1), pack_dim, length, x.dtype)
        yield "quantize_relu", (x.relu(), None, bits, 1, 1, [], pack_dim)
        yield "quantize_relu", (x.relu(), x > 0, bits, 1, 1, [0], pack_dim)
        codes, scale = call("quantize_relu", x.relu(), None, bits, 1, 1, [], pack_dim)
        yield "dequantize_relu", (codes, scale, bits, 1, 1, pack_dim, length, x.dtype)
        yield "dequantize_relu_side", (codes, bits, pack_dim, length)
        yield "quantize_unit", (x, -1.0, 1.0, bits, pack_dim)
        codes, poison = call("quantize_unit", x, -1.0, 1.0, bits, pack_dim)
        yield "dequantize_unit", (codes, poison, -1.0, 1.0, bits, pack_dim, length, x.dtype)
        yield "quantize_bitmask", (x > 0, pack_dim)
        yield "dequantize_bitmask", (call("quantize_bitmask", x > 0, pack_dim), pack_dim, length)


@pytest.mark.parametrize("name", OPS)
def test_opcheck(name: str) -> None:
    """Schema, autograd registration, fake implementation, and tracing with symbolic shapes."""
    cases = [arguments for op, arguments in samples() if op == name]
    assert len(cases) >= 4
    for arguments in cases:
        torch.library.opcheck(OPS[name].overload, arguments)


def test_registry() -> None:
    for name, op in OPS.items():
        assert op.name == name and reference_of(op.overload) is op.reference
    assert reference_of(torch.ops.aten.add.Tensor) is None
    assert reference_of("approx_fx::quantize_unit") is None


# (bits, codes, bytes): a byte's lowest bits hold the code of the first of its places; wider planes come first.
LAYOUT = [
    (1, [1, 0, 1, 1, 0, 0, 1, 0], [0b01001101]),
    (1, [1, 1, 0, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0], [0b10100001, 0b00010011]),
    (1, [1, 1, 1], [0b00000111]),
    (2, [3, 0, 1, 2], [0b10_01_00_11]),
    (2, [3, 0, 1, 2, 2, 3, 0, 1], [0b00_10_01_11, 0b01_11_10_00]),
    (2, [1, 2, 3, 1, 2], [0b00_10_11_01, 0b00_00_01_10]),
    (3, [0, 1, 2, 3, 4, 5, 6, 7], [0b10_00_10_00, 0b11_01_11_01, 0b11110000]),
    (3, [5], [0b00_00_00_01, 0, 0b00000001]),
    (4, [1, 15], [0xF1]),
    (4, [1, 2, 3, 4], [0x31, 0x42]),
    (4, [1, 2, 3, 4, 5], [0x41, 0x52, 0x03]),
    (5, [31, 0, 16, 1, 2, 3, 4, 5], [0x2F, 0x30, 0x40, 0x51, 0b00000101]),
    (6, [63, 1, 18, 32], [0x2F, 0x01, 0b10_01_00_11]),
    (7, [127, 0, 0, 0, 0, 0, 0, 64], [0x0F, 0, 0, 0, 0x03, 0, 0b10000001]),
    (8, [1, 255, 7], [1, 255, 7]),
]


@pytest.mark.parametrize(("bits", "codes", "expected"), LAYOUT)
def test_packed_layout(bits: int, codes: list[int], expected: list[int]) -> None:
    source, target = torch.tensor(codes, dtype=torch.uint8), torch.tensor(expected, dtype=torch.uint8)
    assert packing.packed_length(len(codes), bits) == len(expected)
    for ndim, dim in ((1, 0), (2, 0), (3, 1), (3, 2)):
        shape = [-1 if index == dim else 1 for index in range(ndim)]
        packed = packing.pack(source.reshape(shape), bits, dim)
        assert torch.equal(packed, target.reshape(shape))
        assert torch.equal(packing.unpack(packed, bits, dim, len(codes)), source.reshape(shape))


def test_packed_layout_of_a_matrix() -> None:
    codes = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]], dtype=torch.uint8)
    assert packing.pack(codes, 4, 0).tolist() == [[0x51, 0x62], [0x73, 0x84]]
    assert packing.pack(codes, 4, 1).tolist() == [[0x21], [0x43], [0x65], [0x87]]


def test_pack_dim() -> None:
    assert packing.pack_dim([32, 3, 8, 8], 1) == 0
    assert packing.pack_dim([3, 16, 8, 8], 1) == 1
    assert packing.pack_dim([3, 15, 7, 31], 1) == 3
    assert packing.pack_dim([3, 15], 8) == 0
    assert packing.pack_dim([], 4) == 0


def test_channel_numbers() -> None:
    grid = torch.tensor([[-2.0, 20.0], [1.0, -10.0], [2.0, 1.0]])
    x = torch.tensor([[-5.0, 50.0], [-1.5, 20.0], [-0.5, 8.0], [0.25, -5.0], [9.0, NAN]])
    codes = call("quantize_channel", x, grid, None, 2, 1, 1)
    assert codes.tolist() == [[0], [0], [0b01_01], [0b10_10], [0b11]]
    values = call("dequantize_channel", codes, grid, 2, 1, 1, 2, torch.float32)
    assert values.tolist() == [[-1.5, 15.0], [-1.5, 15.0], [-0.5, 5.0], [0.5, -5.0], [1.5, 15.0]]
    side = torch.tensor([[F, T], [T, F], [F, F], [F, T], [T, T]])
    codes = call("quantize_channel", x, grid, side, 2, 1, 1)
    assert codes.tolist() == [[0b01_00], [0b00_10], [0b00_01], [0b10_01], [0b01_11]]
    assert torch.equal(call("dequantize_channel_side", codes, grid, 2, 1, 1, 2), side)


def test_channel_grid_numbers() -> None:
    mean, rstd, weight, bias = (torch.tensor([value]) for value in (1.0, 0.5, 2.0, 1.0))
    assert call("channel_grid", mean, rstd, weight, bias, 0.0, 2, "blpa").flatten().tolist() == [-6.0, 3.0, 2.0]
    assert call("channel_grid", mean, rstd, -weight, bias, 0.0, 2, "blpa").flatten().tolist() == [8.0, -3.0, 2.0]
    assert call("channel_grid", mean, rstd, weight, bias, None, 2, "blpa").flatten().tolist() == [-5.0, 3.0, 2.0]
    assert call("channel_grid", mean, rstd, None, None, 0.0, 2, "blpa").flatten().tolist() == [-5.0, 3.0, 2.0]


def test_group_numbers() -> None:
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0], [7.0, 7.0, 7.0, 7.0], [0.0, 0.0, 0.0, 0.0]])
    codes, scale = call("quantize_group", x, 2, 1, 4, [], 1)
    # 3 (1 + 2^-7) / 4 = 0.755859375 lies between two bfloat16 numbers; 7 - 7 * 2^-7 = 6.9453125 does, too.
    assert scale[:, :, 0, 0].tolist() == [[0.0, 6.9375, 0.0], [0.7578125, 0.0157470703125, 0.0]]
    assert codes.tolist() == [[0b11_10_01_00], [0b11_11_11_11], [0]]
    values = call("dequantize_group", codes, scale, 2, 1, 4, 1, 4, torch.float32)
    assert values[0].tolist() == [0.37890625, 1.13671875, 1.89453125, 2.65234375]
    assert values[1].tolist() == [6.99261474609375] * 4 and values[2].tolist() == [0.0] * 4


def test_relu_numbers() -> None:
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, NAN, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    codes, scale = call("quantize_relu", x, None, 2, 1, 4, [], 1)
    assert scale[0].tolist() == [[1.0078125]] and scale[1].isnan().all() and scale[2].tolist() == [[0.0]]
    assert codes.tolist() == [[0b11_10_01_00], [0b00_01_01_00], [0]]
    values = call("dequantize_relu", codes, scale, 2, 1, 4, 1, 4, torch.float32)
    assert values[0].tolist() == [0.0, 0.50390625, 1.51171875, 2.51953125]
    assert values[1].isnan().tolist() == [F, T, T, F] and values[2].tolist() == [0.0] * 4
    side = torch.tensor([[T, F, F, T]] * 3)
    codes, _ = call("quantize_relu", x, side, 2, 1, 4, [], 1)
    assert codes.tolist() == [[0b11_00_00_01], [0b01_00_00_01], [0b01_00_00_01]]
    assert torch.equal(call("dequantize_relu_side", codes, 2, 1, 4), side)


def test_unit_numbers() -> None:
    x = torch.tensor([0.0, 0.3, 0.5, 0.99, 1.0, -9.0])
    codes, poison = call("quantize_unit", x, 0.0, 1.0, 2, 0)
    assert codes.tolist() == [0b00_11_10_00, 0b00_00_11_01] and poison.tolist() == [0.0]
    values = call("dequantize_unit", codes, poison, 0.0, 1.0, 2, 0, 6, torch.float32)
    assert values.tolist() == [0.125, 0.375, 0.625, 0.875, 0.875, 0.125]
    x[3] = NAN
    codes, poison = call("quantize_unit", x, -1.0, 1.0, 1, 0)
    assert codes.tolist() == [0b010111] and poison.isnan().all()
    assert call("dequantize_unit", codes, poison, -1.0, 1.0, 1, 0, 6, torch.float32).isnan().all()


def test_bitmask_numbers() -> None:
    mask = torch.tensor([T, F, T, T, F, F, F, F, T])
    assert call("quantize_bitmask", mask, 0).tolist() == [0b00010011, 0b00000010]


def paper(x: Tensor, beta: Tensor, gamma: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eq. 9 in float64 for x [N, C]: codes q, the level that q reaches where a > 0, a / step, and the decoded x."""
    x, beta, gamma = x.double(), beta.double(), gamma.double()
    sigma = (x.var(0, correction=0) + 1e-5).sqrt()
    b = beta / gamma
    a = (x - x.mean(0)) / sigma + b
    shift = (2 ** (bits - 1) - torch.floor(b * 2**bits / 6)).clamp(min=1)
    q = (torch.floor(a * 2**bits / 6) + shift).clamp(0, 2**bits - 1)
    return q, shift, a * 2**bits / 6, ((q + 0.5 - shift) * 6 / 2**bits - b) * sigma + x.mean(0)


def encoded(
    x: Tensor, beta: Tensor, gamma: Tensor, bits: int, side: Tensor | None = None, pack_dim: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(grid, codes, decoded side, decoded x) of x [N, C] on BLPA's grid with its own statistics."""
    mean, rstd = x.mean(0), (x.var(0, correction=0) + 1e-5).rsqrt()
    grid = call("channel_grid", mean, rstd, gamma, beta, 0.0, bits, "blpa")
    packed = call("quantize_channel", x, grid, side, bits, 1, pack_dim)
    place = (grid, bits, 1, pack_dim, x.shape[pack_dim])
    values, above = call("dequantize_channel", packed, *place, x.dtype), call("dequantize_channel_side", packed, *place)
    return grid, packing.unpack(packed, bits, pack_dim, x.shape[pack_dim]), above, values


@pytest.mark.parametrize("bits", range(1, 9))
def test_blpa_is_the_papers_formula(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(500, 64, generator=generator) * 3 + torch.randn(64, generator=generator)
    gamma = torch.rand(64, generator=generator) + 0.5
    # Up to where the threshold leaves codes on both sides of it: 3 sigma, less half a step of 6 / 2^(K-1) sigma.
    beta = gamma * (torch.rand(64, generator=generator) * 2 - 1) * (2 ** (bits - 1) - 1) * 6 / 2**bits
    q, shift, ratio, decoded = paper(x, beta, gamma, bits)
    grid, codes, above, values = encoded(x, beta, gamma, bits)
    assert torch.equal(grid[2].double(), shift)
    # float32 may put a value on the other side of a bin's edge only if it lies on the edge but for rounding.
    inside = (ratio - ratio.round()).abs() > 1e-4
    assert inside.float().mean() > 0.99
    assert torch.equal(codes.double()[inside], q[inside])
    torch.testing.assert_close(values.double()[inside], decoded[inside], rtol=1e-5, atol=1e-4)
    assert torch.equal(above[inside], (ratio > 0)[inside]) and 0.1 < above.float().mean() < 0.9


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("offset", [-1e6, -50.0, -3.5, 3.5, 50.0, 1e6])
def test_blpa_far_from_the_data(bits: int, offset: float) -> None:
    """beta / gamma beyond 3 sigma: the paper's window leaves the data, or its mask has no codes; here neither does."""
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    x[0] = 8.0
    gamma = torch.tensor([1.0, 0.2, 3.0])
    beta = offset * gamma
    side = gamma * x + beta > 0
    assert side.any() or offset < -10
    _, _, above, values = encoded(x, beta, gamma, bits, side)
    assert torch.equal(above, side)
    z, sigma = (x - x.mean(0)) / x.std(0), x.std(0)
    central = z.abs() < 3
    error = (values - x).abs() / sigma
    # The one code kept for the other side costs its bin's values a step.
    assert (error[central] <= 1.5 * 6 / 2**bits * 1.01).all()
    _, codes, _, values = encoded(x, beta, gamma, bits)
    assert ((values - x).abs() / sigma)[central].max() <= 0.5 * 6 / 2**bits * 1.01
    assert codes.unique().numel() >= 0.75 * 2**bits
    q, shift, _, decoded = paper(x, beta, gamma, bits)
    if offset > 0:
        assert ((decoded - x).abs() / sigma)[central].max() > 0.5 * 6 / 2**bits * 1.01
    elif side.any():
        assert not torch.equal(q >= shift, side)


@pytest.mark.parametrize("bits", range(1, 9))
def test_blpa_negative_and_zero_gamma(bits: int) -> None:
    x = torch.randn(1000, 5, generator=torch.Generator().manual_seed(1)) * 2 + 5
    gamma = torch.tensor([-1.0, -0.3, 0.0, 0.0, -0.0])
    beta = torch.tensor([0.5, -0.1, 0.7, -0.7, 0.0])
    mean, sigma = x.mean(0), (x.var(0, correction=0) + 1e-5).sqrt()
    normal = gamma * (x - mean) / sigma + beta
    grid, _, above, values = encoded(x, beta, gamma, bits, normal > 0)
    assert torch.equal(above, normal > 0)
    assert grid[2, 2:].tolist() == [0, 2**bits, 2**bits]
    central = (x - mean).abs() < 3 * sigma
    error = (values - x).abs() / sigma
    assert error[:, 2:][central[:, 2:]].max() <= 3 / 2**bits * 1.01
    grid, _, above, values = encoded(x, beta, gamma, bits)
    low, high = torch.minimum(grid[0], grid[0] + 2**bits * grid[1]), torch.maximum(grid[0], grid[0] + 2**bits * grid[1])
    inside = (x > low) & (x < high)
    assert inside.float().mean() > 0.8 and ((values - x).abs() / sigma)[inside].max() <= 3 / 2**bits * 1.01
    if bits > 1:
        assert torch.equal(above, normal > 0)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("batch", [1, 3, 7, 9])
def test_blpa_odd_batch(bits: int, batch: int) -> None:
    """A batch that the pack factor does not divide decodes as it does packed along the channels."""
    x = torch.randn(batch, 16, generator=torch.Generator().manual_seed(2))
    beta, gamma = torch.linspace(-4, 4, 16), torch.linspace(-2, 2, 16)
    side = x > 0.1
    _, codes, above, values = encoded(x, beta, gamma, bits, side)
    _, expected, _, decoded = encoded(x, beta, gamma, bits, side, pack_dim=1)
    assert torch.equal(codes, expected) and torch.equal(values, decoded) and torch.equal(above, side)
    assert packing.packed_length(batch, bits) < batch * bits / 8 + bits
