"""Row ops: codes on a uniform grid in units of each row's sigma, from statistics that the forward computes anyway.

With z = (x - mean) rstd (or z = x where x is normalised already), K bits and Max's step D:

    q = clip(floor(z / D) + 2^(K-1), 0, 2^K - 1),    z~ = (q + 1/2 - 2^(K-1)) D,    x~ = z~ / rstd + mean

A NaN or Inf in a row makes its rstd NaN, and with it every decoded value of the row. A variance that overflows float32
makes rstd 0; every element of such a row decodes to the mean, because the forward's normalised row is 0 as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .channel import step_in_sigmas
from .pack import as_memory_order_of, clamp_code, empty_in_order, pack, packed_length, unpack
from .registry import define


def _fake_quantize(x: Tensor, mean: Tensor | None, rstd: Tensor | None, bits: int, grid: str, pack_dim: int) -> Tensor:
    shape = list(x.shape)
    shape[pack_dim] = packed_length(shape[pack_dim], bits)
    return empty_in_order(x, shape, torch.uint8)


@define(_fake_quantize, kind="encode")
def quantize_row(x: Tensor, mean: Tensor | None, rstd: Tensor | None, bits: int, grid: str, pack_dim: int) -> Tensor:
    """Encode x, of any float dtype, as uint8 codes packed along `pack_dim`.

    mean, rstd: broadcast against x. mean None: the mean is 0. rstd None: x is normalised already.
    """
    z = x.float()
    if mean is not None:
        z = z - mean.float()
    if rstd is not None:
        z = z * rstd.float()
    codes = torch.floor(z * (1.0 / step_in_sigmas(bits, grid))) + 2.0 ** (bits - 1)
    codes = clamp_code(codes, 0, 2**bits - 1).to(torch.uint8)
    return as_memory_order_of(pack(codes, bits, pack_dim), x)


def _fake_dequantize(
    codes: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    normal: bool,
    bits: int,
    grid: str,
    pack_dim: int,
    length: int,
    dtype: torch.dtype,
) -> Tensor:
    shape = list(codes.shape)
    shape[pack_dim] = length
    return empty_in_order(codes, shape, dtype)


@define(_fake_dequantize, kind="decode")
def dequantize_row(
    codes: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    normal: bool,
    bits: int,
    grid: str,
    pack_dim: int,
    length: int,
    dtype: torch.dtype,
) -> Tensor:
    """Decode to the middle of each code's bin, in `dtype`. length: size of `pack_dim` before packing.

    normal: return the normalised z instead of x; rstd is then only read to make rows with NaN statistics NaN.
    """
    step = step_in_sigmas(bits, grid)
    scale = rstd.float() * 0.0 + step if normal else torch.where(rstd == 0, 0.0, step / rstd.float())
    shift = scale * (0.5 - 2.0 ** (bits - 1))
    if mean is not None:
        shift = shift + mean.float()
    values = unpack(codes, bits, pack_dim, length).float() * scale + shift
    return as_memory_order_of(values.to(dtype), codes)
