"""Group and relu: a scale for each tile of neighbours."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.masks import Mask
from ..joint.op_table import ELEMENT_PRESERVING, traits
from ..joint.ops import skip_ops
from ..joint.value_kinds import is_softmax
from ..ops import group as ops
from .base import Build, Code, Layout, Stored, aten, code_bytes, fake_tensor_of, mask_from, side_of
from .context import Context
from .gaussian_error import in_tiles
from .tile import Tile

# Elements that share a scale before a group norm.
BEFORE_GROUP_NORM = 128


@dataclass(frozen=True)
class Group(Code):
    """K bits an element, low and step (bfloat16) a tile. along: see `Tile.of`."""

    bits: int
    group: int
    along: str = "memory"
    name: ClassVar[str] = "group"

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> Group:
        """For any value. Before a group norm over several channels, which differ in mean and deviation, small tiles."""
        bits, group = context.bits(value), context.config.group
        if value in context.row_norms.by_input and value in context.facts.images:
            return cls(bits, min(group, BEFORE_GROUP_NORM), "space")
        return cls(bits, group, context.along(value))

    def expected_error(self, value: torch.Tensor) -> float:
        """Of bins between the least and the largest element of each tile."""
        return in_tiles(value, Tile.of(value, self.group, self.along), 2**self.bits, False)

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes and scales."""
        return code_bytes(value, self.bits) + 4 * Tile.of(value, self.group, self.along).count(value)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value alone."""
        return [value]

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """(codes, scale)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        tile = Tile.of(fake_tensor_of(value), self.group, self.along).in_memory(layout)
        both = build.call(
            ops.quantize_group.overload, layout.to_memory_order(build, value), self.bits, *tile, layout.pack_dim
        )
        return build.call(operator.getitem, both, 0), build.call(operator.getitem, both, 1)

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The middle of each bin."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        dim, size, _ = Tile.of(fake_tensor_of(value), self.group, self.along).in_memory(layout)
        restored = build.call(
            ops.dequantize_group.overload, *stored, self.bits, dim, size, layout.pack_dim, layout.length, layout.dtype
        )
        return layout.from_memory_order(build, restored)


@dataclass(frozen=True)
class Relu(Code):
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
    preferred: ClassVar[bool] = True

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> Relu | None:
        """For a ReLU's output, with its mask, and a softmax's."""
        bits, group, along = context.bits(value), context.config.group, context.along(value)
        source = skip_ops(value, ELEMENT_PRESERVING)
        if is_softmax(source):
            return cls(bits, group, None, along, sharp=True)
        return cls(bits, group, context.relu_masks.get(source), along) if traits(source).needs_mask else None

    def expected_error(self, value: torch.Tensor) -> float:
        """Of bins between 0 and the largest element of each tile; code 0 is 0."""
        return in_tiles(value, Tile.of(value, self.group, self.along), 2**self.bits - 1, True)

    def owned_mask(self) -> fx.Node | None:
        """Where the ReLU gave 0."""
        return None if self.mask is None else self.mask.node

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes and scales."""
        return code_bytes(value, self.bits) + 2 * Tile.of(value, self.group, self.along).count(value)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value, and the forward's own comparison."""
        return [value] if self.mask is None else [value, self.mask.node]

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """(codes, scale)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        side = None
        if self.mask is not None:
            side = side_of(build, self.mask, layout)
        elif self.sharp:
            largest = build.call(aten.amax.default, value, [-1], True)
            least = build.call(aten.mul.Tensor, largest, 0.25 / (2**self.bits - 1))
            below = build.call(aten.lt.Tensor, value, least)  # False for a NaN, which is then not taken for a 0
            side = layout.to_memory_order(build, build.call(aten.logical_not.default, below))
        tile = Tile.of(fake_tensor_of(value), self.group, self.along).in_memory(layout)
        both = build.call(
            ops.quantize_relu.overload, layout.to_memory_order(build, value), side, self.bits, *tile, layout.pack_dim
        )
        return build.call(operator.getitem, both, 0), build.call(operator.getitem, both, 1)

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """0, or the middle of the bin."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        dim, size, _ = Tile.of(fake_tensor_of(value), self.group, self.along).in_memory(layout)
        restored = build.call(
            ops.dequantize_relu.overload, *stored, self.bits, dim, size, layout.pack_dim, layout.length, layout.dtype
        )
        return layout.from_memory_order(build, restored)

    def decode_mask(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The mask, bit for bit."""
        assert self.mask is not None
        layout = Layout.of(fake_tensor_of(value), self.bits)
        side = build.call(ops.dequantize_relu_side.overload, stored[0], self.bits, layout.pack_dim, layout.length)
        return mask_from(build, self.mask, layout, side)
