"""Launching kernels: tensors in memory order, the split of a tensor into slots, and the launch itself.

A kernel sees a tensor as [outer, per_slot, row] and its codes as [outer, bytes, row]: a row is a `per_slot`-th of the
packed dimension, padding included, times all dimensions inside it. A slot is one index of [outer, row]. Its `per_slot`
codes are a row apart, as are the bytes that they share, so neighbouring slots access neighbouring memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from ..pack import empty_in_order, memory_order, multiple, packed_length, padded_length
from .tune import Choice, Tuner, choices, kind

# Tensors of this many elements or more need 64-bit offsets: a margin below 2^31 for the last, partly empty program.
WIDE_FROM = 2**31 - 2**20
TUNER = Tuner()


@dataclass(frozen=True)
class Order:
    """The memory order of a tensor's dimensions, in which a dense tensor is contiguous."""

    dims: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor) -> Order:
        """The order of x's dimensions, as the references keep it."""
        return cls(tuple(memory_order(x)))

    def apply(self, x: Tensor) -> Tensor:
        """x with its dimensions in this order, contiguous: a view where x is dense and has this order."""
        return x.permute(self.dims).contiguous()

    def undo(self, x: Tensor) -> Tensor:
        """The view of x, whose dimensions are in this order, with the dimensions in their plain order."""
        return x.permute([self.dims.index(dim) for dim in range(len(self.dims))])

    def index(self, dim: int) -> int:
        """Where dimension `dim` comes in this order."""
        return self.dims.index(dim)


@dataclass(frozen=True)
class Slots:
    """The slots of a tensor, as arguments of a kernel.

    count: number of slots; row: slots in a row; full: elements from one outer index to the next; bits: the code's
    width.
    """

    count: int
    row: int
    full: int
    bits: int

    @classmethod
    def of(cls, shape: Sequence[int], bits: int, pack_dim: int) -> Slots:
        """The slots of an unpacked tensor of this shape, contiguous, that is packed along `pack_dim`."""
        inner = math.prod(shape[pack_dim + 1 :])
        row = padded_length(shape[pack_dim], bits) // multiple(bits) * inner
        return cls(math.prod(shape[:pack_dim]) * row, row, shape[pack_dim] * inner, bits)

    def arguments(self) -> dict[str, Any]:
        """The arguments, by name, that every kernel over slots takes."""
        per_slot = multiple(self.bits)
        return {
            "slots": self.count,
            "row": self.row,
            "full": self.full,
            "BITS": self.bits,
            "PER_SLOT": per_slot,
            "FLAT": self.count == self.row,
            "WIDE": self.count * per_slot >= WIDE_FROM,
        }


def packed_shape(shape: Sequence[int], bits: int, pack_dim: int) -> list[int]:
    """The shape of a tensor of this shape once packed."""
    return [packed_length(size, bits) if dim == pack_dim else size for dim, size in enumerate(shape)]


def empty_packed(x: Tensor, bits: int, pack_dim: int) -> Tensor:
    """An empty uint8 tensor for the packed codes of x, in x's memory order."""
    return empty_in_order(x, packed_shape(x.shape, bits, pack_dim), torch.uint8)


def empty_unpacked(codes: Tensor, bits: int, pack_dim: int, length: int, dtype: torch.dtype) -> Tensor:
    """An empty tensor for the decoded values of `codes`, in their memory order.

    Raises RuntimeError if `codes` has another size along `pack_dim` than `length` packed codes have.
    """
    if codes.shape[pack_dim] != packed_length(length, bits):
        actual = f"{codes.shape[pack_dim]} bytes along dimension {pack_dim}"
        raise RuntimeError(f"{length} codes of {bits} bits take {packed_length(length, bits)} bytes, not {actual}.")
    shape = [length if dim == pack_dim else size for dim, size in enumerate(codes.shape)]
    return empty_in_order(codes, shape, dtype)


def as_bytes(x: Tensor) -> Tensor:
    """A bool tensor viewed as uint8."""
    return x.view(torch.uint8)


def run(kernel: Any, programs: int, arguments: dict[str, Any], device: Tensor, warps: int = 4) -> None:
    """Launch `programs` programs of a kernel with `warps` warps each, on the device of the tensor `device`.

    Fused multiply-adds are off, because the references round every product before they add to it.
    """
    with torch.cuda.device_of(device):
        kernel[(programs,)](**arguments, enable_fp_fusion=False, num_warps=warps)


def run_slots(kernel: Any, slots: Slots, device: Tensor, **arguments: Any) -> None:
    """Launch a kernel that handles each slot once, with the fastest block size and number of warps."""
    if not slots.count:
        return
    everything = {**arguments, **slots.arguments()}

    def launch(choice: Choice) -> None:
        run(kernel, triton.cdiv(slots.count, choice.block), {**everything, "BLOCK": choice.block}, device, choice.warps)

    still = not device.is_cuda or torch.cuda.is_current_stream_capturing()
    TUNER.run(kind(kernel, slots.count, everything), slots.count, choices(everything["PER_SLOT"]), launch, still)
