"""Tiles: which elements of a value share a scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..joint.fake_values import memory_order, numel
from .base import Layout


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

    def in_memory(self, layout: Layout) -> tuple[int, int, list[int]]:
        """(dim, group, over) as the ops take them, in memory order."""
        return layout.dim_in_memory(self.dim), self.size, sorted(layout.dim_in_memory(dim) for dim in self.over)


def _divisor(length: int, most: int) -> int:
    """The largest divisor of `length` up to `most`; the smallest above it where only crumbs divide it."""
    sizes = [size for size in range(1, length + 1) if length % size == 0]
    best = max((size for size in sizes if size <= most), default=1)
    return best if best * 4 >= min(most, length) else min(size for size in sizes if size > best)
