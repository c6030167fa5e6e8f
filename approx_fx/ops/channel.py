"""Channel ops: codes on a uniform grid per channel, in units of the channel's standard deviation over the batch.

Source: Chakrabarti & Moseley, NeurIPS 2019, Eq. 9, with sigma-optimal steps (Max 1960) as the default grid.

Along one channel with batch mean m and 1/sigma r, the normalised value is z = (x - m) r, seen in the direction of
gamma: s = sign(gamma), a = s z + b, b = (beta - t) / |gamma|, so that a > 0 exactly where gamma z + beta > t.

    code   q  = clip(floor(a / D) + level, 0, 2^K - 1)         D the step in sigmas
    value  z~ = s ((q + 1/2 - level) D - b)

b is clamped to +-(2^(K-1) - 1) D first: beyond that the threshold leaves the data's range, the window stays on the data
and one code is left for the other side. level = round(2^(K-1) - b / D) then lies in [1, 2^K - 1]. For gamma = 0 the
whole channel lies on one side: level = 0 or 2^K.

The rows of a grid tensor are: x at the lower edge of code 0, the signed step in x, the level, and 1 / step. On a GPU, a
grid with a threshold has two more: the middle of code 0 minus the mean, (1/2 - level - b / D) s D, in x and in sigmas.
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
    """The bin width in sigmas: Max's optimum for "gaussian"; 6 / 2^K, a range of +-3 sigma, for "blpa"."""
    return GAUSSIAN_STEP[bits] if grid == "gaussian" else 6.0 / 2**bits


def _along(row: Tensor, ndim: int, dim: int) -> Tensor:
    """A vector reshaped to broadcast along dimension `dim` of a tensor with `ndim` dimensions."""
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
    """The grid of each channel, float32 [4, C] or [6, C]; the module's docstring lists the rows.

    mean, rstd: C elements, the batch statistics (rstd = 1 / sqrt(var + eps)); weight, bias: gamma and beta, C elements.
    threshold: the value of gamma z + beta at which a mask switches, or None where no mask is read from the codes.
    deviation: sqrt(var + eps), C elements, which saves a division; None to use 1 / rstd. With both a deviation and a
    threshold the grid has six rows; `dequantize_centred` reads the last two.
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
    # A NaN in gamma or beta reaches decoded values through the lower edge; the level stays finite, so masks are exact.
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
    """Encode x as uint8 codes packed along `pack_dim`. x: any float dtype, channels on `dim`; grid: `channel_grid`'s.

    side: bool, x's shape, the forward's own comparison with the threshold, or None. If given, code >= level exactly
    where it is True.
    """
    low, level, inverse = (_along(grid[row], x.ndim, dim) for row in (0, 2, 3))
    top = 2**bits - 1
    codes = clamp_code(torch.floor((x.float() - low) * inverse), 0, top)
    if side is not None:
        # Each value is used once: Inductor would materialize a reused value that reads so many tensors, as float32.
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
    """Decode to the middle of each code's bin, in `dtype`; a channel with NaN or Inf statistics decodes to NaN.

    length: size of `pack_dim` before packing.
    """
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
    """Decode to x - mean, in `dtype`, without adding the mean and subtracting it again; if `sigmas`, (x - mean) rstd.

    grid: six rows, or four made without a threshold, whose level is 2^(K-1); the latter is not read if `sigmas`, and
    may be None. kind: the grid's name in `step_in_sigmas`. Unless `sigmas`, a channel with NaN statistics decodes to
    NaN.
    """
    values, step = unpack(codes, bits, pack_dim, length).float(), step_in_sigmas(bits, kind)
    if grid is not None and grid.shape[0] == 6:
        signed = torch.where(grid[1] < 0, -step, step) if sigmas else grid[1]
        centred = _along(grid[5 if sigmas else 4], codes.ndim, dim) + values * _along(signed, codes.ndim, dim)
    else:
        scale = step if sigmas or grid is None else _along(grid[1], codes.ndim, dim)
        centred = (values + (0.5 - 2 ** (bits - 1))) * scale
    return as_memory_order_of(centred.to(dtype), codes)


def _fake_side(codes: Tensor, grid: Tensor, bits: int, dim: int, pack_dim: int, length: int) -> Tensor:
    return _fake_dequantize(codes, grid, bits, dim, pack_dim, length, torch.bool)


@define(_fake_side, kind="mask", exact=True)
def dequantize_channel_side(codes: Tensor, grid: Tensor, bits: int, dim: int, pack_dim: int, length: int) -> Tensor:
    """The `side` given to `quantize_channel`, bit for bit: code >= level, as bool."""
    return as_memory_order_of(unpack(codes, bits, pack_dim, length).float() >= _along(grid[2], codes.ndim, dim), codes)
