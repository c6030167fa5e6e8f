"""The error that the report tells to expect of a code is that of Gaussian values' codes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from approx_fx.encode.gaussian_error import extreme_of, in_sigmas
from approx_fx.encode.group import Relu
from approx_fx.encode.stochastic import Stochastic
from approx_fx.ops import OPS
from approx_fx.ops.channel import GRIDS, step_in_sigmas


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_error_to_expect_of_a_grid_in_sigmas(bits: int, grid: str) -> None:
    x = torch.special.ndtri((torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000).float()[None]
    mean, rstd = x.mean(1), 1 / x.std(1, correction=0)
    rows = OPS["channel_grid"].reference(mean, rstd, None, None, None, bits, grid)
    codes = OPS["quantize_channel"].reference(x, rows, None, bits, 0, 1)
    back = OPS["dequantize_channel"].reference(codes, rows, bits, 0, 1, x.shape[1], x.dtype)
    measured = float((back - x).square().mean().sqrt() / x.square().mean().sqrt())
    assert in_sigmas(step_in_sigmas(bits, grid), bits) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["relu", "stochastic", "stochastic relu"])
def test_the_error_to_expect_of_tiles(kind: str, bits: int) -> None:
    x = torch.randn(4000, 256, generator=torch.Generator().manual_seed(0))
    positive, random = "relu" in kind, "stochastic" in kind
    x, side = (x.relu(), x > 0) if positive else (x, None)
    mask: Any = object() if positive else None
    if random:
        key = torch.tensor(7)
        codes, scale = OPS["quantize_stochastic"].reference(x, side, key, bits, 1, 256, [], 1)
        back = OPS["dequantize_stochastic"].reference(codes, scale, positive, bits, 1, 256, 1, 256, x.dtype)
        expected = Stochastic(bits, 256, "memory", mask, 0).expected_error(x)
    else:
        codes, scale = OPS["quantize_relu"].reference(x, side, bits, 1, 256, [], 1)
        back = OPS["dequantize_relu"].reference(codes, scale, bits, 1, 256, 1, 256, x.dtype)
        expected = Relu(bits, 256, mask).expected_error(x)
    measured = float((back - x).square().mean().sqrt() / x.square().mean().sqrt())
    # Wide bins are not filled evenly: two bits' codes above 0 lie where a Gaussian falls off steeply.
    assert expected == pytest.approx(measured, rel=0.3 if bits == 2 else 0.1)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_error_to_expect_of_a_group(bits: int) -> None:
    x = torch.randn(4000, 256, generator=torch.Generator().manual_seed(0))
    codes, scale = OPS["quantize_group"].reference(x, bits, 1, 256, [], 1)
    back = OPS["dequantize_group"].reference(codes, scale, bits, 1, 256, 1, 256, x.dtype)
    measured = float((back - x).square().mean().sqrt())
    # The scale's margin of 2^-7 and its rounding are left out of the estimate, and so is a wide bin's slope.
    assert 2 * extreme_of(256) / 2**bits / math.sqrt(12) == pytest.approx(measured, rel=0.06)
