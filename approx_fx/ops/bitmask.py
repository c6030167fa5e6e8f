"""Bitmask ops: a bool tensor stored losslessly in one bit per element."""

from __future__ import annotations

import torch
from torch import Tensor

from .pack import as_memory_order_of, empty_in_order, pack, packed_length, unpack
from .registry import define


def _fake_quantize(mask: Tensor, pack_dim: int) -> Tensor:
    shape = list(mask.shape)
    shape[pack_dim] = packed_length(shape[pack_dim], 1)
    return empty_in_order(mask, shape, torch.uint8)


@define(_fake_quantize, kind="encode")
def quantize_bitmask(mask: Tensor, pack_dim: int) -> Tensor:
    """Pack a bool mask, eight elements per byte. Returns uint8 of mask's shape, `pack_dim` an eighth as long."""
    return as_memory_order_of(pack(mask, 1, pack_dim), mask)


def _fake_dequantize(codes: Tensor, pack_dim: int, length: int) -> Tensor:
    shape = list(codes.shape)
    shape[pack_dim] = length
    return empty_in_order(codes, shape, torch.bool)


@define(_fake_dequantize, kind="decode", exact=True)
def dequantize_bitmask(codes: Tensor, pack_dim: int, length: int) -> Tensor:
    """Unpack the bool mask given to `quantize_bitmask`, bit for bit. length: size of `pack_dim` before packing."""
    return as_memory_order_of(unpack(codes, 1, pack_dim, length).to(torch.bool), codes)
