"""Stochastic rounding ops: a code is drawn at random, so that the expected decoded value is the value itself.

    group   q = floor((x - low) / step + u),   x~ = low + q step,     low <= min,  step >= (max - low) / (2^K - 1)
    side    q = 1 + floor(x / step + u),       x~ = (q - 1) step,     code 0 where the mask does not hold,  K >= 2

u in [0, 1) is a hash of the element's index and a key; the key is a hash of (seed, step, tensor). Eager and compiled
code, any strides, and a run resumed from a checkpoint give the same u. Torch's global generator is not used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

from .group import MARGIN, _largest, _packed, _reduced, _scale_shape, _smallest, _tiles, _unpacked
from .pack import arange_like, as_contiguous, as_memory_order_of, clamp_code, materialization_hint, pack, unpack
from .registry import NAMESPACE, define

HASH_MASK = 2**31 - 1  # hashes have 31 bits, so that their products with a 31-bit constant fit int64
FACTORS = (0x2C1B3C6D, 0x297A2D39)

_step: ContextVar[int] = ContextVar("approx_fx_step", default=0)


@contextlib.contextmanager
def at_step(step: int) -> Iterator[None]:
    """Context in which `rounding_key` hashes this training step. step: number of forward calls the model had before."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


@torch.library.custom_op(f"{NAMESPACE}::rounding_key", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def rounding_key(seed: int, tensor: int, device: torch.device) -> Tensor:
    """A hash of (seed, the current step, tensor), int64 []. tensor: a number that tells saved tensors apart.

    It is never inlined, because it reads the step when it runs, and it is kept out of CUDA graphs: a replay would reuse
    the random numbers of the step in which the graph was recorded.
    """
    key = 0
    for part in (seed, _step.get(), tensor):
        key = (key ^ part) & (2**64 - 1)
        for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
            key = ((key ^ (key >> 30)) * factor + 0x9E3779B97F4A7C15) & (2**64 - 1)
    return torch.full((), (key >> 32) & HASH_MASK, dtype=torch.int64, device=device)


@rounding_key.register_fake
def _(seed: int, tensor: int, device: torch.device) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=device)


def uniform(x: Tensor, key: Tensor) -> Tensor:
    """Random numbers in [0, 1), float32, x's shape: a hash of each element's row-major index and the key, int64 []."""
    shape = x.shape
    index: Tensor | int = 0
    for dim, length in enumerate(shape):
        position = arange_like(x, length, 1, torch.int64).reshape([-1 if d == dim else 1 for d in range(x.ndim)])
        index = index * length + position
    mixed = (index + key) & HASH_MASK
    for factor in FACTORS:
        mixed = ((mixed ^ (mixed >> 15)) * factor) & HASH_MASK
    mixed = mixed ^ (mixed >> 14) ^ key
    mixed = (mixed * FACTORS[0]) & HASH_MASK
    return ((mixed ^ (mixed >> 13)) >> 7).float() * 2.0**-24


def _truncate_to_bfloat16(x: Tensor) -> Tensor:
    """float32 truncated to bfloat16's digits, so that a scale in a register equals the scale that is stored."""
    return (x.contiguous().view(torch.int32) & -65536).view(torch.float32)


def _fake_quantize(
    x: Tensor, side: Tensor | None, key: Tensor, bits: int, dim: int, group: int, over: list[int], pack_dim: int
) -> tuple[Tensor, Tensor]:
    scale = x.new_empty([2, *_scale_shape(x, dim, group, over)], dtype=torch.bfloat16)
    return _packed(x, bits, pack_dim), scale


@define(_fake_quantize, kind="encode")
def quantize_stochastic(
    x: Tensor, side: Tensor | None, key: Tensor, bits: int, dim: int, group: int, over: list[int], pack_dim: int
) -> tuple[Tensor, Tensor]:
    """Encode x, of any float dtype, by stochastic rounding, with a low and a step per tile. key: int64 [].

    side: None, or for x >= 0 the forward's own x > 0, bool; a code is then 0 exactly where it is False.
    Returns codes, uint8 packed along `pack_dim`, and the scale, bfloat16 [2, *tiles]: low and step.
    """
    tiles = _tiles(materialization_hint(x.float()), dim, group)
    reduced = _reduced(dim, over)
    noise = _tiles(uniform(x, key), dim, group)
    high = _largest(tiles, reduced)
    first = 0 if side is None else 1  # the lowest code of a drawn value; with a side, code 0 is the exact zero
    low = _smallest(tiles, reduced) if side is None else high * 0.0
    low = _truncate_to_bfloat16(low - low.abs() * MARGIN)
    levels = 2**bits - 1 - first
    step = _truncate_to_bfloat16((high - low) * ((1 + MARGIN) / max(levels, 1)))
    codes = torch.floor((tiles - low) / torch.where(step == 0, 1.0, step) + noise) + first
    codes = clamp_code(codes, first, 2**bits - 1).flatten(dim, dim + 1)
    if side is not None:
        codes = torch.where(side, codes, 0.0)
    return as_memory_order_of(pack(codes.to(torch.uint8), bits, pack_dim), x), as_contiguous(
        torch.stack([low, step]).to(torch.bfloat16)
    )


def _fake_dequantize(
    codes: Tensor,
    scale: Tensor,
    sided: bool,
    bits: int,
    dim: int,
    group: int,
    pack_dim: int,
    length: int,
    dtype: torch.dtype,
) -> Tensor:
    return _unpacked(codes, pack_dim, length, dtype)


@define(_fake_dequantize, kind="decode")
def dequantize_stochastic(
    codes: Tensor,
    scale: Tensor,
    sided: bool,
    bits: int,
    dim: int,
    group: int,
    pack_dim: int,
    length: int,
    dtype: torch.dtype,
) -> Tensor:
    """Decode to the grid point of each code, in `dtype`. sided: whether `quantize_stochastic` was given a side."""
    low, step = scale[0].float(), scale[1].float()
    tiles = _tiles(unpack(codes, bits, pack_dim, length).float(), dim, group)
    values = torch.where(tiles > 0, low + (tiles - 1) * step, 0.0) if sided else low + tiles * step
    return as_memory_order_of(values.flatten(dim, dim + 1).to(dtype), codes)
