"""Tiles: which elements of a tensor share a scale, for any choice of dimensions, as four numbers.

In memory order the dimensions alternate between those that tell tiles apart (kept) and those inside a tile (reduced).
Neighbours of a kind merge, so that [kept1, reduced1, kept2, reduced2], each 1 or more, covers all common cases.
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
    """A tensor's tiles. memory, shape: the tensor's and the scale's shapes in memory order, `dim` not split."""

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
        """The tiles of a tensor of this shape, or None: four numbers can't tell them, or they don't fit."""
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
        """The tiles of the tensor that `codes` decode to, given its scale's shape: reduced where its length is 1."""
        shape = [length if index == pack_dim else size for index, size in enumerate(codes.shape)]
        kept = [size // group if index == dim else size for index, size in enumerate(shape)]
        plain = [*scale[: dim + 1], *scale[dim + 2 :]]
        over = [index for index, size in enumerate(plain) if size == 1 and kept[index] != 1]
        return cls.of(shape, Order.of(codes), dim, group, over)

    @property
    def count(self) -> int:
        """Tiles."""
        return self.kept1 * self.kept2

    @property
    def size(self) -> int:
        """Elements in a tile."""
        return self.reduced1 * self.reduced2

    def arguments(self, slots: Slots, pack_dim: int) -> dict[str, Any]:
        """The arguments that say which tile a code of a slot is in.

        From one code of a slot to the next the tile moves by `apart`, unless the tiled dimension is packed (ALONG).
        """
        place = self.order.index(pack_dim)
        inside, steps = math.prod(self.memory[place + 1 :]), math.prod(self.shape[place + 1 :])
        moves = self.shape[place] == self.memory[place]
        return {
            "reduced1": self.reduced1,
            "kept2": self.kept2,
            "reduced2": self.reduced2,
            "apart": slots.row // max(inside, 1) * steps if moves else 0,
            "ALONG": pack_dim == self.dim,
        }

    def to_plain(self, scale: Tensor) -> Tensor:
        """A scale in memory order, `shape`, as the op returns it: contiguous in plain order, `dim` split."""
        return as_contiguous(self.order.undo(scale).unsqueeze(self.dim + 1))

    def to_memory(self, scale: Tensor) -> Tensor:
        """The reverse of `to_plain`."""
        return self.order.apply(scale.squeeze(self.dim + 1)).expand(self.shape).contiguous()
