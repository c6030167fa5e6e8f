"""Fixed-range ops: codes on a fixed grid over a known range, such as [0, 1] for a sigmoid or [-1, 1] for tanh.

    q = round((x - low) / step),   x~ = low + q step,   step = (high - low) / (2^K - 1)

Both ends are on the grid: a saturated gate decodes to 0 or 1, and its derivative s (1 - s) to 0. The middles of 2^K
equal bins would make it about 2^-(K+1), many times too much, and in the same direction for every sample. With one bit
the two codes decode to the middles of the two half ranges instead.

No scale is stored. One float32 flag is NaN if the tensor held a NaN or Inf, and then every decoded value is NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .pack import as_memory_order_of, clamp_code, empty_in_order, materialization_hint, pack, packed_length, unpack
from .registry import define


def grid_of(low: float, high: float, bits: int) -> tuple[float, float]:
    """(lower edge of code 0, step) of the grid; a code decodes to half a step above its lower edge."""
    if bits == 1:
        return low, (high - low) / 2
    step = (high - low) / (2**bits - 1)
    return low - step / 2, step


def _fake_quantize(x: Tensor, low: float, high: float, bits: int, pack_dim: int) -> tuple[Tensor, Tensor]:
    shape = list(x.shape)
    shape[pack_dim] = packed_length(shape[pack_dim], bits)
    return empty_in_order(x, shape, torch.uint8), x.new_empty((1,), dtype=torch.float32)


@define(_fake_quantize, kind="encode")
def quantize_unit(x: Tensor, low: float, high: float, bits: int, pack_dim: int) -> tuple[Tensor, Tensor]:
    """Encode x, of any float dtype, whose elements lie in [low, high].

    Returns codes, uint8 packed along `pack_dim`, and the NaN flag, float32 [1]: 0, or NaN if x holds a NaN or Inf.
    """
    x = materialization_hint(x)
    nan_flag = (x.float() * 0.0).sum().reshape(1)
    edge, step = grid_of(low, high, bits)
    codes = clamp_code(torch.floor((x.float() - edge) * (1 / step)), 0, 2**bits - 1)
    return as_memory_order_of(pack(codes.to(torch.uint8), bits, pack_dim), x), nan_flag


def _fake_dequantize(
    codes: Tensor, nan_flag: Tensor, low: float, high: float, bits: int, pack_dim: int, length: int, dtype: torch.dtype
) -> Tensor:
    shape = list(codes.shape)
    shape[pack_dim] = length
    return empty_in_order(codes, shape, dtype)


@define(_fake_dequantize, kind="decode")
def dequantize_unit(
    codes: Tensor, nan_flag: Tensor, low: float, high: float, bits: int, pack_dim: int, length: int, dtype: torch.dtype
) -> Tensor:
    """Decode to the grid point of each code, in `dtype`. length: size of `pack_dim` before packing."""
    edge, step = grid_of(low, high, bits)
    values = unpack(codes, bits, pack_dim, length).float() * step + (edge + 0.5 * step)
    return as_memory_order_of((values + nan_flag.reshape([1] * codes.ndim)).to(dtype), codes)
