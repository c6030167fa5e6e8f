"""Tiles: which elements of a value share a scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..joint.fake_values import memory_order, numel, sizes
from .base import Layout


@dataclass(frozen=True)
class Tile:
    """`size` neighbours along the value's dimension `dim`, times all elements along `reduced_dims`, share a scale."""

    dim: int
    size: int
    reduced_dims: tuple[int, ...]

    @classmethod
    def of(cls, value: torch.Tensor, group: int, grouping: str) -> Tile:
        """A tile of up to `group` neighbours: all of the innermost dimensions, then a part of the next.

        grouping: "memory" for neighbours in memory; "channels" for the channels of an image first, whatever its
        strides, because Inductor makes convolutions channels-last; "space" for neighbours in one channel of an image;
        "tokens" for one feature, the last dimension, of neighbouring tokens.

        A dimension of symbolic length cannot be divided: a tile holds all of it or one element of it, by the length
        that it was traced with.
        """
        order = memory_order(value) or list(range(value.ndim))
        if grouping != "memory":
            order = [0, *range(2, value.ndim), 1] if grouping == "channels" else list(range(value.ndim))
        inner = [dim for dim in reversed(order) if dim != 0 or value.ndim == 1]
        if grouping == "tokens" and value.ndim > 1:
            inner = list(reversed(range(value.ndim - 1)))
        reduced_dims: list[int] = []
        count, lengths = 1, sizes(value)
        for dim in inner:
            length = value.shape[dim]
            if not isinstance(length, int):
                if count * lengths[dim] <= group or not reduced_dims:
                    reduced_dims.append(dim)
                    count *= lengths[dim]
                continue
            if count > group:
                break
            size = largest_divisor(length, group // count)
            if size != length or count * length > group:
                is_divided = size > 1 or not reduced_dims
                return cls(dim, size, tuple(reduced_dims)) if is_divided else cls._of_dims(value, reduced_dims)
            reduced_dims.append(dim)
            count *= length
        return cls._of_dims(value, reduced_dims) if reduced_dims else cls(inner[0] if inner else 0, 1, ())

    @classmethod
    def _of_dims(cls, value: torch.Tensor, dims: list[int]) -> Tile:
        """A tile of all elements along these dimensions; of one element, if the value has no other of fixed length."""
        fixed = [dim for dim in dims if isinstance(value.shape[dim], int)]
        if fixed:
            return cls(fixed[-1], int(value.shape[fixed[-1]]), tuple(dim for dim in dims if dim != fixed[-1]))
        others = [dim for dim in range(value.ndim) if dim not in dims]
        return cls(others[-1], 1, tuple(dims)) if others else cls(0, 1, ())

    def count(self, value: torch.Tensor) -> int:
        """Number of tiles."""
        elements = self.size
        lengths = sizes(value)
        for dim in self.reduced_dims:
            elements *= lengths[dim]
        return numel(value) // max(elements, 1)

    def in_memory(self, layout: Layout) -> tuple[int, int, list[int]]:
        """(dim, group, over) as the ops take them, in memory order."""
        return layout.dim_in_memory(self.dim), self.size, sorted(layout.dim_in_memory(dim) for dim in self.reduced_dims)


def largest_divisor(length: int, most: int) -> int:
    """The largest divisor of `length` up to `most`; if that is below a quarter of it, the smallest divisor above."""
    sizes = [size for size in range(1, length + 1) if length % size == 0]
    best = max((size for size in sizes if size <= most), default=1)
    return best if best * 4 >= min(most, length) else min(size for size in sizes if size > best)
