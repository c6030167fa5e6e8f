"""Bitmask: a bool tensor in one bit an element, exactly."""

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
    """Eight elements a byte, uint8, packed along `pack_dim`. mask: bool."""
    return as_memory_order_of(pack(mask, 1, pack_dim), mask)


def _fake_dequantize(codes: Tensor, pack_dim: int, length: int) -> Tensor:
    shape = list(codes.shape)
    shape[pack_dim] = length
    return empty_in_order(codes, shape, torch.bool)


@define(_fake_dequantize, kind="decode", exact=True)
def dequantize_bitmask(codes: Tensor, pack_dim: int, length: int) -> Tensor:
    """The mask, bool, bit for bit."""
    return as_memory_order_of(unpack(codes, 1, pack_dim, length).to(torch.bool), codes)
