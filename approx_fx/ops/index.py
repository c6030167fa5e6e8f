"""Index quantizer: whole numbers from 0 to a known bound, in the fewest bits, exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from .pack import as_memory_order_of, empty_in_order, pack, packed_length, unpack
from .registry import define


def _fake_quantize(x: Tensor, bits: int, pack_dim: int) -> Tensor:
    shape = list(x.shape)
    shape[pack_dim] = packed_length(shape[pack_dim], bits)
    return empty_in_order(x, shape, torch.uint8)


@define(_fake_quantize, kind="encode")
def quantize_index(x: Tensor, bits: int, pack_dim: int) -> Tensor:
    """Codes, uint8, packed along `pack_dim`. x: any integer dtype, 0 <= x < 2**bits."""
    return as_memory_order_of(pack(x.to(torch.uint8, copy=True), bits, pack_dim), x)


def _fake_dequantize(codes: Tensor, bits: int, pack_dim: int, length: int, dtype: torch.dtype) -> Tensor:
    shape = list(codes.shape)
    shape[pack_dim] = length
    return empty_in_order(codes, shape, dtype)


@define(_fake_dequantize, kind="decode", exact=True)
def dequantize_index(codes: Tensor, bits: int, pack_dim: int, length: int, dtype: torch.dtype) -> Tensor:
    """The numbers given to `quantize_index`, in `dtype`."""
    values = unpack(codes, bits, pack_dim, length).to(dtype)
    return as_memory_order_of(values.clone() if bits == 8 and values is codes else values, codes)
