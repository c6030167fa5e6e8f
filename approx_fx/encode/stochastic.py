"""Stochastic encoding: codes whose expected decoded value is the value, drawn from (seed, step, tensor)."""

from __future__ import annotations

import math
import operator
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import fx

from ..joint.fake_values import is_bool
from ..joint.masks import Mask
from ..joint.op_table import ELEMENT_PRESERVING, skip_ops
from ..ops import group as side_ops
from ..ops import stochastic as ops
from .base import Build, Code, Encoding, Layout, Stored, code_bytes, fake_tensor_of, mask_from, side_of
from .better import ladder
from .context import Context
from .gaussian_error import in_tiles
from .tile import Tile


@dataclass(frozen=True)
class Stochastic(Code):
    """`bits` per element; a low and a step, bfloat16, per tile. group, grouping: see `Tile.of`.

    mask: for a ReLU's output its mask, a bit of the code: code 0 exactly where the ReLU gave 0. None for other values.
    """

    bits: int
    group: int
    grouping: str
    mask: Mask | None
    seed: int
    name: ClassVar[str] = "stochastic"

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> Stochastic | None:
        """The encoding of any float value, if the option `rounding` is "stochastic"; else None.

        It replaces all other lossy encodings, because clipping and bins around the extremes would bias the average.
        """
        config, bits = context.config, context.bits(value)
        if config.rounding != "stochastic" or is_bool(value):
            return None
        mask = context.relu_masks.get(skip_ops(value, ELEMENT_PRESERVING))
        return cls(bits, context.tile(value), context.grouping(value), mask if bits > 1 else None, config.seed)

    def alternatives(self, value: fx.Node, context: Context) -> Sequence[Encoding]:
        """Other tiles, more bits."""

        def coded(bits: int, group: int, grouping: str) -> Stochastic:
            return replace(self, bits=bits, group=group, grouping=grouping)

        return ladder(value, self.bits, context, coded, self)

    def expected_error(self, value: torch.Tensor) -> float:
        """Stochastic rounding doubles the mean square error. With a mask there is one bin fewer."""
        bins = 2**self.bits - (1 if self.mask is None else 2)
        return math.sqrt(2) * in_tiles(value, Tile.of(value, self.group, self.grouping), bins, self.mask is not None)

    def owned_mask(self) -> fx.Node | None:
        """The ReLU's mask, or None."""
        return None if self.mask is None else self.mask.node

    def nbytes(self, value: torch.Tensor) -> int:
        """Bytes of the codes and the scales."""
        return code_bytes(value, self.bits) + 4 * Tile.of(value, self.group, self.grouping).count(value)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value, and the ReLU's mask if there is one."""
        return [value] if self.mask is None else [value, self.mask.node]

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """Saves (codes, scale)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        tile = Tile.of(fake_tensor_of(value), self.group, self.grouping).in_memory(layout)
        device = fake_tensor_of(value).device
        key = build.call(torch.ops.approx_fx.rounding_key.default, self.seed, zlib.crc32(value.name.encode()), device)
        side = side_of(build, self.mask, layout) if self.mask is not None else None
        codes_and_scale = build.call(
            ops.quantize_stochastic.overload,
            layout.to_memory_order(build, value),
            side,
            key,
            self.bits,
            *tile,
            layout.pack_dim,
        )
        return build.call(operator.getitem, codes_and_scale, 0), build.call(operator.getitem, codes_and_scale, 1)

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Decodes to the grid point of each code."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        dim, size, _ = Tile.of(fake_tensor_of(value), self.group, self.grouping).in_memory(layout)
        restored = build.call(
            ops.dequantize_stochastic.overload, *stored, self.mask is not None, self.bits, dim, size, layout.pack_dim,
            layout.length, layout.dtype,
        )  # fmt: skip
        return layout.from_memory_order(build, restored)

    def decode_mask(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Restores the mask, bit for bit."""
        assert self.mask is not None
        layout = Layout.of(fake_tensor_of(value), self.bits)
        side = build.call(side_ops.dequantize_relu_side.overload, stored[0], self.bits, layout.pack_dim, layout.length)
        return mask_from(build, self.mask, layout, side)
