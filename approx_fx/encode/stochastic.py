"""Stochastic: codes that are right on average, drawn from (seed, step, tensor)."""

from __future__ import annotations

import operator
import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.masks import Mask
from ..ops import group as side_ops
from ..ops import stochastic as ops
from .base import Build, Layout, Stored, code_bytes, fake_tensor_of, mask_from, side_of
from .group import Tile


@dataclass(frozen=True)
class Stochastic:
    """K bits an element, low and step (bfloat16) a tile. mask: code 0 exactly where the forward's ReLU gave 0."""

    bits: int
    group: int
    along: str
    mask: Mask | None
    seed: int
    name: ClassVar[str] = "stochastic"

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes and scales."""
        return code_bytes(value, self.bits) + 4 * Tile.of(value, self.group, self.along).count(value)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value, and the forward's own comparison."""
        return [value] if self.mask is None else [value, self.mask.node]

    def quantize(self, build: Build, value: fx.Node) -> Stored:
        """(codes, scale)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        tile = Tile.of(fake_tensor_of(value), self.group, self.along).place(layout)
        device = fake_tensor_of(value).device
        key = build.call(torch.ops.approx_fx.rounding_key.default, self.seed, zlib.crc32(value.name.encode()), device)
        side = side_of(build, self.mask, layout) if self.mask is not None else None
        both = build.call(
            ops.quantize_stochastic.overload, layout.into(build, value), side, key, self.bits, *tile, layout.pack_dim
        )
        return build.call(operator.getitem, both, 0), build.call(operator.getitem, both, 1)

    def dequantize(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The value of each code."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        dim, size, _ = Tile.of(fake_tensor_of(value), self.group, self.along).place(layout)
        restored = build.call(
            ops.dequantize_stochastic.overload, *stored, self.mask is not None, self.bits, dim, size, layout.pack_dim,
            layout.length, layout.dtype,
        )  # fmt: skip
        return layout.back(build, restored)

    def dequantize_mask(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The mask, bit for bit."""
        assert self.mask is not None
        layout = Layout.of(fake_tensor_of(value), self.bits)
        side = build.call(side_ops.dequantize_relu_side.overload, stored[0], self.bits, layout.pack_dim, layout.length)
        return mask_from(build, self.mask, layout, side)
