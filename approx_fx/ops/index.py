"""Index ops: non-negative integers below a known bound, stored losslessly in the fewest bits."""

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
    """Pack x into uint8 codes along `pack_dim`. x: any integer dtype, 0 <= x < 2**bits; bits: 1 to 8."""
    return as_memory_order_of(pack(x.to(torch.uint8, copy=True), bits, pack_dim), x)


def _fake_dequantize(codes: Tensor, bits: int, pack_dim: int, length: int, dtype: torch.dtype) -> Tensor:
    shape = list(codes.shape)
    shape[pack_dim] = length
    return empty_in_order(codes, shape, dtype)


@define(_fake_dequantize, kind="decode", exact=True)
def dequantize_index(codes: Tensor, bits: int, pack_dim: int, length: int, dtype: torch.dtype) -> Tensor:
    """Unpack the integers given to `quantize_index`, in `dtype`. length: size of `pack_dim` before packing."""
    # 8-bit codes of dtype uint8 are returned by `unpack` unchanged, but an op must not return its own input
    values = unpack(codes, bits, pack_dim, length).to(dtype)
    return as_memory_order_of(values.clone() if bits == 8 and values is codes else values, codes)
