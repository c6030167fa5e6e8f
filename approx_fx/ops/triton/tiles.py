"""Tiles: which elements of a tensor share a scale, for any choice of dimensions, as four numbers.

In memory order the dimensions alternate between those that index tiles (kept) and those inside a tile (reduced).
Adjacent ones of the same kind are merged; [kept1, reduced1, kept2, reduced2], each 1 or more, covers all common cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..pack import as_contiguous
from .launch import Order, Slots


@dataclass(frozen=True)
class Tiles:
    """The tiles of a tensor. memory, shape: shapes of the tensor and of the scale in memory order, `dim` not split."""

    kept1: int
    reduced1: int
    kept2: int
    reduced2: int
    order: Order
    memory: tuple[int, ...]
    shape: tuple[int, ...]
    dim: int

    @classmethod
    def of(cls, shape: Sequence[int], order: Order, dim: int, group: int, over: Sequence[int]) -> Tiles | None:
        """The tiles of a tensor of this shape; None if they need more than four numbers, or `group` doesn't divide."""
        if shape[dim] % group:
            return None
        sizes: list[tuple[bool, int]] = []
        scale = []
        for index in order.dims:
            kept = index not in over
            if index == dim:
                sizes += [(kept, shape[index] // group), (False, group)]
                scale.append(shape[index] // group if kept else 1)
            else:
                sizes.append((kept, shape[index]))
                scale.append(shape[index] if kept else 1)
        merged: list[int] = []
        for kept, size in sizes:
            if size == 1:
                continue
            if not merged and not kept:
                merged = [1]
            if merged and kept == (len(merged) % 2 == 1):
                merged[-1] *= size
            else:
                merged.append(size)
        if len(merged) > 4:
            return None
        kept1, reduced1, kept2, reduced2 = merged + [1] * (4 - len(merged))
        memory = tuple(shape[index] for index in order.dims)
        return cls(kept1, reduced1, kept2, reduced2, order, memory, tuple(scale), dim)

    @classmethod
    def of_codes(
        cls, codes: Tensor, scale: Sequence[int], dim: int, group: int, pack_dim: int, length: int
    ) -> Tiles | None:
        """The tiles of the tensor that `codes` decode to. scale: shape of its scale, 1 along reduced dimensions."""
        shape = [length if index == pack_dim else size for index, size in enumerate(codes.shape)]
        kept = [size // group if index == dim else size for index, size in enumerate(shape)]
        plain = [*scale[: dim + 1], *scale[dim + 2 :]]
        over = [index for index, size in enumerate(plain) if size == 1 and kept[index] != 1]
        return cls.of(shape, Order.of(codes), dim, group, over)

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.kept1 * self.kept2

    @property
    def size(self) -> int:
        """Number of elements in a tile."""
        return self.reduced1 * self.reduced2

    def arguments(self, slots: Slots, pack_dim: int) -> dict[str, Any]:
        """The kernel arguments that give the tile of each code of a slot.

        The next code of a slot is `tile_step` tiles further on, unless the tiled dimension is packed (ALONG).
        """
        place = self.order.index(pack_dim)
        inside, steps = math.prod(self.memory[place + 1 :]), math.prod(self.shape[place + 1 :])
        moves = self.shape[place] == self.memory[place]
        return {
            "reduced1": self.reduced1,
            "kept2": self.kept2,
            "reduced2": self.reduced2,
            "tile_step": slots.row // max(inside, 1) * steps if moves else 0,
            "ALONG": pack_dim == self.dim,
        }

    def to_plain(self, scale: Tensor) -> Tensor:
        """A scale of shape `shape`, in memory order, as the op returns it: row-major, with `dim` split in two."""
        return as_contiguous(self.order.undo(scale).unsqueeze(self.dim + 1))

    def to_memory(self, scale: Tensor) -> Tensor:
        """A scale that the op returned, in memory order: the inverse of `to_plain`."""
        return self.order.apply(scale.squeeze(self.dim + 1)).expand(self.shape).contiguous()
