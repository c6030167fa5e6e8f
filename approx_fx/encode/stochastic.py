"""Stochastic: codes that are right on average, drawn from (seed, step, tensor)."""

from __future__ import annotations

import math
import operator
import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.fake_values import is_bool
from ..joint.masks import Mask
from ..joint.op_table import ELEMENT_PRESERVING
from ..joint.ops import skip_ops
from ..ops import group as side_ops
from ..ops import stochastic as ops
from .base import Build, Code, Layout, Stored, code_bytes, fake_tensor_of, mask_from, side_of
from .context import Context
from .gaussian_error import in_tiles
from .tile import Tile


@dataclass(frozen=True)
class Stochastic(Code):
    """K bits an element, low and step (bfloat16) a tile. mask: code 0 exactly where the forward's ReLU gave 0."""

    bits: int
    group: int
    along: str
    mask: Mask | None
    seed: int
    name: ClassVar[str] = "stochastic"

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> Stochastic | None:
        """For every float value: a grid with a window, or with its ends inside the bins, is not right on average."""
        config, bits = context.config, context.bits(value)
        if config.rounding != "stochastic" or is_bool(value):
            return None
        mask = context.relu_masks.get(skip_ops(value, ELEMENT_PRESERVING))
        return cls(bits, config.group, context.along(value), mask if bits > 1 else None, config.seed)

    def expected_error(self, value: torch.Tensor) -> float:
        """Rounding up or down at random, with the chances that make it right on average, doubles the mean square.

        A ReLU's codes above 0, which it rounds between, are one fewer.
        """
        bins = 2**self.bits - (1 if self.mask is None else 2)
        return math.sqrt(2) * in_tiles(value, Tile.of(value, self.group, self.along), bins, self.mask is not None)

    def owned_mask(self) -> fx.Node | None:
        """Where the ReLU gave 0."""
        return None if self.mask is None else self.mask.node

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes and scales."""
        return code_bytes(value, self.bits) + 4 * Tile.of(value, self.group, self.along).count(value)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value, and the forward's own comparison."""
        return [value] if self.mask is None else [value, self.mask.node]

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """(codes, scale)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        tile = Tile.of(fake_tensor_of(value), self.group, self.along).in_memory(layout)
        device = fake_tensor_of(value).device
        key = build.call(torch.ops.approx_fx.rounding_key.default, self.seed, zlib.crc32(value.name.encode()), device)
        side = side_of(build, self.mask, layout) if self.mask is not None else None
        both = build.call(
            ops.quantize_stochastic.overload,
            layout.to_memory_order(build, value),
            side,
            key,
            self.bits,
            *tile,
            layout.pack_dim,
        )
        return build.call(operator.getitem, both, 0), build.call(operator.getitem, both, 1)

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The value of each code."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        dim, size, _ = Tile.of(fake_tensor_of(value), self.group, self.along).in_memory(layout)
        restored = build.call(
            ops.dequantize_stochastic.overload, *stored, self.mask is not None, self.bits, dim, size, layout.pack_dim,
            layout.length, layout.dtype,
        )  # fmt: skip
        return layout.from_memory_order(build, restored)

    def decode_mask(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The mask, bit for bit."""
        assert self.mask is not None
        layout = Layout.of(fake_tensor_of(value), self.bits)
        side = build.call(side_ops.dequantize_relu_side.overload, stored[0], self.bits, layout.pack_dim, layout.length)
        return mask_from(build, self.mask, layout, side)
