"""Group and relu encodings: codes with one scale per tile of neighbouring elements."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import fx

from ..joint.masks import Mask
from ..joint.op_table import ELEMENT_PRESERVING, VIEWS, name_of, skip_ops, traits
from ..joint.value_kinds import is_softmax
from ..ops import group as ops
from .base import Build, Code, Encoding, Layout, Stored, aten, code_bytes, fake_tensor_of, mask_from, side_of
from .better import ladder
from .context import Context
from .gaussian_error import in_tiles
from .tile import Tile

# The largest tile, in elements, before a group norm over several channels, which differ in mean and deviation.
MAX_TILE_BEFORE_GROUP_NORM = 128


@dataclass(frozen=True)
class Group(Code):
    """`bits` per element; a low and a step, bfloat16, per tile. group, grouping: see `Tile.of`."""

    bits: int
    group: int
    grouping: str = "memory"

    @property
    def name(self) -> str:
        """`group`, with the kind of tiles where they are not the usual ones."""
        return named("group", self.grouping)

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> Group:
        """The encoding of any value; before a group norm, of small tiles within one channel."""
        bits, group = context.bits(value), context.tile(value)
        if value in context.row_norms.by_input and value in context.facts.images:
            return cls(bits, min(group, MAX_TILE_BEFORE_GROUP_NORM), "space")
        return cls(bits, group, context.grouping(value))

    def alternatives(self, value: fx.Node, context: Context) -> Sequence[Encoding]:
        """Other tiles, more bits."""
        return ladder(value, self.bits, context, Group, self)

    def expected_error(self, value: torch.Tensor) -> float:
        """The error of bins between the smallest and the largest element of each tile."""
        return in_tiles(value, Tile.of(value, self.group, self.grouping), 2**self.bits, False)

    def nbytes(self, value: torch.Tensor) -> int:
        """Bytes of the codes and the scales."""
        return code_bytes(value, self.bits) + 4 * Tile.of(value, self.group, self.grouping).count(value)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """Only the value."""
        return [value]

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """Saves (codes, scale)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        tile = Tile.of(fake_tensor_of(value), self.group, self.grouping).in_memory(layout)
        codes_and_scale = build.call(
            ops.quantize_group.overload, layout.to_memory_order(build, value), self.bits, *tile, layout.pack_dim
        )
        return build.call(operator.getitem, codes_and_scale, 0), build.call(operator.getitem, codes_and_scale, 1)

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Decodes to the middle of each bin."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        dim, size, _ = Tile.of(fake_tensor_of(value), self.group, self.grouping).in_memory(layout)
        restored = build.call(
            ops.dequantize_group.overload, *stored, self.bits, dim, size, layout.pack_dim, layout.length, layout.dtype
        )
        return layout.from_memory_order(build, restored)


@dataclass(frozen=True)
class Relu(Code):
    """`bits` per element; a step, bfloat16, per tile. For values >= 0: code 0 exactly where the forward's ReLU gave 0.

    group, grouping: see `Tile.of`. mask: the ReLU's mask, a bit of the code, or None.
    zero_below_quarter_step: for a softmax's output, most of whose elements are near 0: what is below a quarter of a
    step is coded as 0, not as the middle of the first bin, because such errors would add up along the row.
    """

    bits: int
    group: int
    mask: Mask | None
    grouping: str = "memory"
    zero_below_quarter_step: bool = False
    preferred: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """`relu`, with the kind of tiles where they are not the usual ones."""
        return named("relu", self.grouping)

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> Relu | None:
        """The encoding of a ReLU's output, with its mask, or of a softmax's; None for other values."""
        bits, group, grouping = context.bits(value), context.tile(value), context.grouping(value)
        source = skip_ops(value, ELEMENT_PRESERVING)
        if is_softmax(source):
            return cls(bits, group, None, grouping, zero_below_quarter_step=True)
        if traits(source).needs_mask:
            return cls(bits, group, context.relu_masks.get(source), grouping)
        return cls(bits, group, None, grouping) if _is_pooled_relu(source) else None

    def alternatives(self, value: fx.Node, context: Context) -> Sequence[Encoding]:
        """Other tiles, more bits."""

        def coded(bits: int, group: int, grouping: str) -> Relu:
            return replace(self, bits=bits, group=group, grouping=grouping)

        return ladder(value, self.bits, context, coded, self)

    def expected_error(self, value: torch.Tensor) -> float:
        """The error of bins between 0 and the largest element of each tile; code 0 is exact."""
        return in_tiles(value, Tile.of(value, self.group, self.grouping), 2**self.bits - 1, True)

    def owned_mask(self) -> fx.Node | None:
        """The ReLU's mask, or None."""
        return None if self.mask is None else self.mask.node

    def nbytes(self, value: torch.Tensor) -> int:
        """Bytes of the codes and the scales."""
        return code_bytes(value, self.bits) + 2 * Tile.of(value, self.group, self.grouping).count(value)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value, and the ReLU's mask if there is one."""
        return [value] if self.mask is None else [value, self.mask.node]

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """Saves (codes, scale)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        side = None
        if self.mask is not None:
            side = side_of(build, self.mask, layout)
        elif self.zero_below_quarter_step:
            largest = build.call(aten.amax.default, value, [-1], True)
            threshold = build.call(aten.mul.Tensor, largest, 0.25 / (2**self.bits - 1))
            below = build.call(aten.lt.Tensor, value, threshold)  # False for a NaN, which is then not coded as 0
            side = layout.to_memory_order(build, build.call(aten.logical_not.default, below))
        tile = Tile.of(fake_tensor_of(value), self.group, self.grouping).in_memory(layout)
        codes_and_scale = build.call(
            ops.quantize_relu.overload, layout.to_memory_order(build, value), side, self.bits, *tile, layout.pack_dim
        )
        return build.call(operator.getitem, codes_and_scale, 0), build.call(operator.getitem, codes_and_scale, 1)

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Decodes code 0 to 0, any other to the middle of its bin."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        dim, size, _ = Tile.of(fake_tensor_of(value), self.group, self.grouping).in_memory(layout)
        restored = build.call(
            ops.dequantize_relu.overload, *stored, self.bits, dim, size, layout.pack_dim, layout.length, layout.dtype
        )
        return layout.from_memory_order(build, restored)

    def decode_mask(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Restores the mask, bit for bit."""
        assert self.mask is not None
        layout = Layout.of(fake_tensor_of(value), self.bits)
        side = build.call(ops.dequantize_relu_side.overload, stored[0], self.bits, layout.pack_dim, layout.length)
        return mask_from(build, self.mask, layout, side)


def _is_pooled_relu(value: fx.Node) -> bool:
    """Whether poolings, views and cats made the value of ReLUs' outputs: zeros stay, and nothing becomes negative."""
    value = skip_ops(value, ELEMENT_PRESERVING | VIEWS)
    if traits(value).needs_mask:
        return True
    if name_of(value) == "getitem" and value.args[1] == 0 and "max_pool" in name_of(value.args[0]):  # type: ignore[arg-type]
        value = value.args[0]  # type: ignore[assignment]
    elif name_of(value) not in ("avg_pool2d", "_adaptive_avg_pool2d", "cat"):
        return False
    sources = value.all_input_nodes
    return bool(sources) and all(map(_is_pooled_relu, sources))


def named(kind: str, grouping: str) -> str:
    """The name of an encoding in the report: 'group', or 'group over tokens'."""
    return f"{kind} over tokens" if grouping == "tokens" else kind
