"""Group and relu: a scale for each tile of neighbours."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.masks import Mask
from ..joint.values import numel
from ..ops import group as ops
from .base import Build, Layout, Stored, aten, code_bytes, shape_of


@dataclass(frozen=True)
class Tile:
    """`size` neighbours along `dim` (of the value), times everything along `over`, share a scale."""

    dim: int
    size: int
    over: tuple[int, ...]

    @classmethod
    def of(cls, value: torch.Tensor, group: int) -> Tile:
        """Channels of an image, features of a sequence: what lies together in either memory format.

        If there are fewer than half of `group` of them, the innermost dimensions join in.
        """
        dim = 1 if value.ndim >= 4 else value.ndim - 1
        size = _divisor(value.shape[dim], group)
        over: list[int] = []
        count = size
        for other in reversed(range(value.ndim)):
            length = value.shape[other]
            if other in (0, dim) or size != value.shape[dim] or not isinstance(length, int):
                continue
            if count * length > group:
                break
            over.append(other)
            count *= length
        return cls(dim, size, tuple(over))

    def count(self, value: torch.Tensor) -> int:
        """Number of tiles."""
        elements = self.size
        for dim in self.over:
            elements *= int(value.shape[dim])
        return numel(value) // max(elements, 1)

    def place(self, layout: Layout) -> tuple[int, int, list[int]]:
        """(dim, group, over) as the ops take them, in memory order."""
        return layout.place(self.dim), self.size, sorted(layout.place(dim) for dim in self.over)


def _divisor(length: object, group: int) -> int:
    """The largest divisor of `length` up to `group`; all of it where only crumbs divide it."""
    if not isinstance(length, int):
        return 1
    best = max((size for size in range(1, min(group, length) + 1) if length % size == 0), default=1)
    return best if best * 8 >= min(group, length) else length


@dataclass(frozen=True)
class Group:
    """K bits an element, low and step (bfloat16) a tile."""

    bits: int
    group: int
    name: ClassVar[str] = "group"

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes and scales."""
        return code_bytes(value, self.bits) + 4 * Tile.of(value, self.group).count(value)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value alone."""
        return [value]

    def quantize(self, build: Build, value: fx.Node) -> Stored:
        """(codes, scale)."""
        layout = Layout.of(shape_of(value), self.bits)
        tile = Tile.of(shape_of(value), self.group).place(layout)
        both = build.call(ops.quantize_group.overload, layout.into(build, value), self.bits, *tile, layout.pack_dim)
        return build.call(operator.getitem, both, 0), build.call(operator.getitem, both, 1)

    def dequantize(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The middle of each bin."""
        layout = Layout.of(shape_of(value), self.bits)
        dim, size, _ = Tile.of(shape_of(value), self.group).place(layout)
        restored = build.call(
            ops.dequantize_group.overload, *stored, self.bits, dim, size, layout.pack_dim, layout.length, layout.dtype
        )
        return layout.back(build, restored)


@dataclass(frozen=True)
class Relu:
    """K bits an element, a step (bfloat16) a tile; code 0 exactly where the forward's ReLU gave 0."""

    bits: int
    group: int
    mask: Mask | None
    name: ClassVar[str] = "relu"

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes and scales."""
        return code_bytes(value, self.bits) + 2 * Tile.of(value, self.group).count(value)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value, and the forward's own comparison."""
        return [value] if self.mask is None else [value, self.mask.node]

    def quantize(self, build: Build, value: fx.Node) -> Stored:
        """(codes, scale)."""
        layout = Layout.of(shape_of(value), self.bits)
        side = None
        if self.mask is not None:
            side = self.mask.node
            if not self.mask.positive:
                side = build.call(aten.logical_not.default, side)
            side = layout.into(build, side)
        tile = Tile.of(shape_of(value), self.group).place(layout)
        both = build.call(
            ops.quantize_relu.overload, layout.into(build, value), side, self.bits, *tile, layout.pack_dim
        )
        return build.call(operator.getitem, both, 0), build.call(operator.getitem, both, 1)

    def dequantize(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """0, or the middle of the bin."""
        layout = Layout.of(shape_of(value), self.bits)
        dim, size, _ = Tile.of(shape_of(value), self.group).place(layout)
        restored = build.call(
            ops.dequantize_relu.overload, *stored, self.bits, dim, size, layout.pack_dim, layout.length, layout.dtype
        )
        return layout.back(build, restored)

    def dequantize_mask(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The mask, bit for bit."""
        assert self.mask is not None
        layout = Layout.of(shape_of(value), self.bits)
        side = build.call(ops.dequantize_relu_side.overload, stored[0], self.bits, layout.pack_dim, layout.length)
        side = layout.back(build, side)
        return side if self.mask.positive else build.call(aten.logical_not.default, side)
