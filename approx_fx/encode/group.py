"""Group and relu: a scale for each tile of neighbours."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.fake_values import memory_order, numel
from ..joint.masks import Mask
from ..ops import group as ops
from .base import Build, Layout, Stored, aten, code_bytes, fake_tensor_of, mask_from, side_of


@dataclass(frozen=True)
class Tile:
    """`size` neighbours along `dim` (of the value), times everything along `over`, share a scale."""

    dim: int
    size: int
    over: tuple[int, ...]

    @classmethod
    def of(cls, value: torch.Tensor, group: int, along: str) -> Tile:
        """Neighbours, up to `group` of them: whole inner dimensions, then a part of the next.

        along: "memory"; "channels" of an image lie innermost, whatever the strides say, for Inductor lays convolutions
        out channels-last; "space" keeps to one channel of an image.
        """
        order = memory_order(value) or list(range(value.ndim))
        if along != "memory":
            order = [0, *range(2, value.ndim), 1] if along == "channels" else list(range(value.ndim))
        inner = [dim for dim in reversed(order) if dim != 0 or value.ndim == 1]
        over: list[int] = []
        count = 1
        for dim in inner:
            length = value.shape[dim]
            if not isinstance(length, int):
                break
            size = _divisor(length, group // count)
            if size != length or count * length > group:
                return cls(dim, size, tuple(over)) if size > 1 or not over else cls._whole(value, over)
            over.append(dim)
            count *= length
        return cls._whole(value, over) if over else cls(inner[0] if inner else 0, 1, ())

    @classmethod
    def _whole(cls, value: torch.Tensor, dims: list[int]) -> Tile:
        """All of these dimensions."""
        return cls(dims[-1], int(value.shape[dims[-1]]), tuple(dims[:-1]))

    def count(self, value: torch.Tensor) -> int:
        """Number of tiles."""
        elements = self.size
        for dim in self.over:
            elements *= int(value.shape[dim])
        return numel(value) // max(elements, 1)

    def place(self, layout: Layout) -> tuple[int, int, list[int]]:
        """(dim, group, over) as the ops take them, in memory order."""
        return layout.place(self.dim), self.size, sorted(layout.place(dim) for dim in self.over)


def _divisor(length: int, most: int) -> int:
    """The largest divisor of `length` up to `most`; the smallest above it where only crumbs divide it."""
    sizes = [size for size in range(1, length + 1) if length % size == 0]
    best = max((size for size in sizes if size <= most), default=1)
    return best if best * 4 >= min(most, length) else min(size for size in sizes if size > best)


@dataclass(frozen=True)
class Group:
    """K bits an element, low and step (bfloat16) a tile. along: see `Tile.of`."""

    bits: int
    group: int
    along: str = "memory"
    name: ClassVar[str] = "group"

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes and scales."""
        return code_bytes(value, self.bits) + 4 * Tile.of(value, self.group, self.along).count(value)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value alone."""
        return [value]

    def quantize(self, build: Build, value: fx.Node) -> Stored:
        """(codes, scale)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        tile = Tile.of(fake_tensor_of(value), self.group, self.along).place(layout)
        both = build.call(ops.quantize_group.overload, layout.into(build, value), self.bits, *tile, layout.pack_dim)
        return build.call(operator.getitem, both, 0), build.call(operator.getitem, both, 1)

    def dequantize(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The middle of each bin."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        dim, size, _ = Tile.of(fake_tensor_of(value), self.group, self.along).place(layout)
        restored = build.call(
            ops.dequantize_group.overload, *stored, self.bits, dim, size, layout.pack_dim, layout.length, layout.dtype
        )
        return layout.back(build, restored)


@dataclass(frozen=True)
class Relu:
    """K bits an element, a step (bfloat16) a tile; code 0 exactly where the forward's ReLU gave 0.

    along: see `Tile.of`.
    sharp: a softmax's output, with most of its elements near 0: what is below a quarter of a step is coded as 0, not as
    the middle of the first bin, which would add up along the row.
    """

    bits: int
    group: int
    mask: Mask | None
    along: str = "memory"
    sharp: bool = False
    name: ClassVar[str] = "relu"

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes and scales."""
        return code_bytes(value, self.bits) + 2 * Tile.of(value, self.group, self.along).count(value)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value, and the forward's own comparison."""
        return [value] if self.mask is None else [value, self.mask.node]

    def quantize(self, build: Build, value: fx.Node) -> Stored:
        """(codes, scale)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        side = None
        if self.mask is not None:
            side = side_of(build, self.mask, layout)
        elif self.sharp:
            largest = build.call(aten.amax.default, value, [-1], True)
            least = build.call(aten.mul.Tensor, largest, 0.25 / (2**self.bits - 1))
            below = build.call(aten.lt.Tensor, value, least)  # False for a NaN, which is then not taken for a 0
            side = layout.into(build, build.call(aten.logical_not.default, below))
        tile = Tile.of(fake_tensor_of(value), self.group, self.along).place(layout)
        both = build.call(
            ops.quantize_relu.overload, layout.into(build, value), side, self.bits, *tile, layout.pack_dim
        )
        return build.call(operator.getitem, both, 0), build.call(operator.getitem, both, 1)

    def dequantize(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """0, or the middle of the bin."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        dim, size, _ = Tile.of(fake_tensor_of(value), self.group, self.along).place(layout)
        restored = build.call(
            ops.dequantize_relu.overload, *stored, self.bits, dim, size, layout.pack_dim, layout.length, layout.dtype
        )
        return layout.back(build, restored)

    def dequantize_mask(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The mask, bit for bit."""
        assert self.mask is not None
        layout = Layout.of(fake_tensor_of(value), self.bits)
        side = build.call(ops.dequantize_relu_side.overload, stored[0], self.bits, layout.pack_dim, layout.length)
        return mask_from(build, self.mask, layout, side)
