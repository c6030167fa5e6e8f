"""Row quantizer: a uniform grid in units of a row's own sigma, from statistics that the forward computes anyway.

With z = (x - mean) rstd (or x itself where it is normalised already), K bits and Max's step D:

    q = clip(floor(z / D) + 2^(K-1), 0, 2^K - 1),    z~ = (q + 1/2 - 2^(K-1)) D,    x~ = z~ / rstd + mean

A NaN or Inf in a row makes its rstd NaN, and so every value of the row. A variance that float32 cannot hold makes it 0:
such a row is its mean, as its normalisation takes it to be.
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
    """Codes, uint8, packed along `pack_dim`. x: any float dtype; mean, rstd: broadcast against x, or None.

    rstd None: x is normalised already. mean None: it is taken to be 0.
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
    """The middle of each code's bin, in `dtype`. normal: give z itself; rstd then only says where it is NaN."""
    step = step_in_sigmas(bits, grid)
    scale = rstd.float() * 0.0 + step if normal else torch.where(rstd == 0, 0.0, step / rstd.float())
    shift = scale * (0.5 - 2.0 ** (bits - 1))
    if mean is not None:
        shift = shift + mean.float()
    values = unpack(codes, bits, pack_dim, length).float() * scale + shift
    return as_memory_order_of(values.to(dtype), codes)
