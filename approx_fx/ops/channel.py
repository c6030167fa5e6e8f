"""Channel quantizer: a uniform grid per channel in units of the batch sigma.

Source: Chakrabarti & Moseley, NeurIPS 2019, Eq. 9, with sigma-optimal steps (Max 1960) as the default grid.

Along one channel with batch mean m and 1/sigma r, the normalised value is z = (x - m) r, seen in the direction of
gamma: s = sign(gamma), a = s z + b, b = (beta - t) / |gamma|, so that a > 0 exactly where gamma z + beta > t.

    code   q  = clip(floor(a / D) + level, 0, 2^K - 1)         D the step in sigmas
    value  z~ = s ((q + 1/2 - level) D - b)

b is clamped to +-(2^(K-1) - 1) D first: beyond that the threshold leaves the data's range, the window stays on the data
and one code is left for the other side. level = round(2^(K-1) - b / D) then lies in [1, 2^K - 1]. For gamma = 0 the
whole channel lies on one side: level = 0 or 2^K.

A grid's rows: x at code 0's lower edge, signed step in x, level, 1 / step. For a GPU, where there is a threshold, two
more: the middle of code 0 less the mean, (1/2 - level - b / D) s D, in x and in sigmas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .pack import as_memory_order_of, clamp_code, empty_in_order, pack, packed_length, unpack
from .registry import define

# Steps in sigmas that minimise the mean square error of a uniform quantizer of a Gaussian (Max 1960, Table II).
GAUSSIAN_STEP = {1: 1.596, 2: 0.9957, 3: 0.586, 4: 0.3352, 5: 0.1881, 6: 0.1041, 7: 0.0568, 8: 0.0308}
GRIDS = ("gaussian", "blpa")


def step_in_sigmas(bits: int, grid: str) -> float:
    """The width of a bin in sigmas: Max's optimum, or BLPA's 6 / 2^K (a range of +-3 sigma for every K)."""
    return GAUSSIAN_STEP[bits] if grid == "gaussian" else 6.0 / 2**bits


def _along(row: Tensor, ndim: int, dim: int) -> Tensor:
    return row.reshape([-1 if index == dim else 1 for index in range(ndim)])


def _fake_grid(
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    threshold: float | None,
    bits: int,
    grid: str,
    deviation: Tensor | None = None,
) -> Tensor:
    rows = 4 if threshold is None or deviation is None else 6
    return mean.new_empty((rows, mean.numel()), dtype=torch.float32)


@define(_fake_grid, fused_only=True)
def channel_grid(
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    threshold: float | None,
    bits: int,
    grid: str,
    deviation: Tensor | None = None,
) -> Tensor:
    """Per-channel grid, float32 [4, C]: lower edge of code 0, signed step, level, 1 / step; or [6, C], see below.

    mean, rstd: C elements, the batch statistics (rstd = 1 / sqrt(var + eps)); weight, bias: gamma and beta, C elements.
    threshold: the value of gamma z + beta that decides a mask, or None where no mask is read from the codes.
    deviation: sqrt(var + eps), C elements, or None for 1 / rstd; a step then follows without a division, and with a
    threshold there are two more rows, from which `dequantize_centred` reads: the middle of code 0 less the mean, in x
    and in sigmas.
    """
    step = step_in_sigmas(bits, grid)
    half, top = 2 ** (bits - 1), 2**bits - 1
    m, r = mean.reshape(-1).float(), rstd.reshape(-1).float()
    sigma = deviation.reshape(-1).float() if deviation is not None else None
    if threshold is None:
        inverse = r * (1.0 / step)
        signed = sigma * step if sigma is not None else 1.0 / inverse
        return torch.stack([m - half * signed, signed, torch.full_like(m, half), inverse])
    gamma = torch.ones_like(m) if weight is None else weight.reshape(-1).float()
    beta = torch.zeros_like(m) if bias is None else bias.reshape(-1).float()
    distance = beta - threshold if threshold else beta
    constant = gamma == 0
    ratio = (distance * (1.0 / step) / torch.where(constant, 1.0, gamma.abs())).clamp(1 - half, half - 1)
    ratio = torch.where(constant, 0.0, ratio)
    level = torch.round(half - ratio) if grid == "gaussian" else half - torch.floor(ratio)
    # A NaN in gamma or beta makes the values NaN by the lower edge; the level stays a number, and so the side exact.
    level = clamp_code(level, 1, top)
    inverse = torch.where(gamma < 0, -1.0 / step, 1.0 / step) * r
    step_of = torch.where(gamma < 0, -step, step)
    signed = step_of * sigma if sigma is not None else 1.0 / inverse
    side = torch.where(distance > 0, 0.0, float(2**bits))
    rows = [m - (level + ratio) * signed, signed, torch.where(constant, side, level), inverse]
    if sigma is not None:
        middle = 0.5 - (level + ratio)
        rows += [middle * signed, middle * step_of]
    return torch.stack(rows)


def _fake_quantize(x: Tensor, grid: Tensor, side: Tensor | None, bits: int, dim: int, pack_dim: int) -> Tensor:
    shape = list(x.shape)
    shape[pack_dim] = packed_length(shape[pack_dim], bits)
    return empty_in_order(x, shape, torch.uint8)


@define(_fake_quantize, kind="encode")
def quantize_channel(x: Tensor, grid: Tensor, side: Tensor | None, bits: int, dim: int, pack_dim: int) -> Tensor:
    """Codes, uint8, packed along `pack_dim`. x: any float dtype, channels on `dim`; grid: from `channel_grid`.

    side: bool, x's shape, the forward's own comparison, or None. Where given, code >= level exactly where it holds.
    """
    low, level, inverse = (_along(grid[row], x.ndim, dim) for row in (0, 2, 3))
    top = 2**bits - 1
    codes = clamp_code(torch.floor((x.float() - low) * inverse), 0, top)
    if side is not None:
        # Each value is used once: Inductor would give one that reads so many tensors memory of its own, as float32.
        codes = torch.maximum(codes, torch.where(side, level, 0.0))
        codes = torch.minimum(codes, torch.where(side, float(top), (level - 1).clamp_min(0)))
    return as_memory_order_of(pack(codes.to(torch.uint8), bits, pack_dim), x)


def _fake_dequantize(
    codes: Tensor, grid: Tensor, bits: int, dim: int, pack_dim: int, length: int, dtype: torch.dtype
) -> Tensor:
    shape = list(codes.shape)
    shape[pack_dim] = length
    return empty_in_order(codes, shape, dtype)


@define(_fake_dequantize, kind="decode")
def dequantize_channel(
    codes: Tensor, grid: Tensor, bits: int, dim: int, pack_dim: int, length: int, dtype: torch.dtype
) -> Tensor:
    """The middle of each code's bin, in `dtype`; a channel whose statistics are NaN or Inf comes out as NaN."""
    middle, step = grid[0] + 0.5 * grid[1], grid[1]
    values = unpack(codes, bits, pack_dim, length).float()
    return as_memory_order_of(
        (_along(middle, codes.ndim, dim) + values * _along(step, codes.ndim, dim)).to(dtype), codes
    )


def _fake_centred(
    codes: Tensor,
    grid: Tensor | None,
    bits: int,
    kind: str,
    sigmas: bool,
    dim: int,
    pack_dim: int,
    length: int,
    dtype: torch.dtype,
) -> Tensor:
    return _fake_dequantize(codes, codes, bits, dim, pack_dim, length, dtype)


@define(_fake_centred, kind="decode", fused_only=True)
def dequantize_centred(
    codes: Tensor,
    grid: Tensor | None,
    bits: int,
    kind: str,
    sigmas: bool,
    dim: int,
    pack_dim: int,
    length: int,
    dtype: torch.dtype,
) -> Tensor:
    """What `dequantize_channel` gives, less the mean; with sigmas: (x - mean) rstd.

    grid: of six rows, or one made without a threshold, whose level is 2^(K-1); that is not needed for sigmas, and may
    be None. kind: its name, see `step_in_sigmas`. Without sigmas a channel of NaNs is NaN.
    """
    values, step = unpack(codes, bits, pack_dim, length).float(), step_in_sigmas(bits, kind)
    if grid is not None and grid.shape[0] == 6:
        signed = torch.where(grid[1] < 0, -step, step) if sigmas else grid[1]
        centred = _along(grid[5 if sigmas else 4], codes.ndim, dim) + values * _along(signed, codes.ndim, dim)
    else:
        known = None if sigmas else grid
        centred = (values + (0.5 - 2 ** (bits - 1))) * (step if known is None else _along(known[1], codes.ndim, dim))
    return as_memory_order_of(centred.to(dtype), codes)


def _fake_side(codes: Tensor, grid: Tensor, bits: int, dim: int, pack_dim: int, length: int) -> Tensor:
    return _fake_dequantize(codes, grid, bits, dim, pack_dim, length, torch.bool)


@define(_fake_side, kind="mask", exact=True)
def dequantize_channel_side(codes: Tensor, grid: Tensor, bits: int, dim: int, pack_dim: int, length: int) -> Tensor:
    """The `side` given to `quantize_channel`, exactly: code >= level."""
    return as_memory_order_of(unpack(codes, bits, pack_dim, length).float() >= _along(grid[2], codes.ndim, dim), codes)
