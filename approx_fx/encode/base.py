"""What every quantizer is: a frozen dataclass that prices, stores and restores one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import fx

from ..joint.fake_values import memory_order, numel, sizes, tensor
from ..joint.masks import Mask
from ..ops.pack import pack_dim, packed_length

aten = torch.ops.aten
Stored = tuple[fx.Node, ...]


class Build(Protocol):
    """The part of the node constructor that quantizers use."""

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new node."""


class Quantizer(Protocol):
    """Stores one value."""

    @property
    def name(self) -> str:
        """The quantizer's name in the report."""

    @property
    def bits(self) -> int:
        """Bits of a code; 0 if the value is stored as it is."""

    def nbytes(self, value: torch.Tensor) -> int:
        """Bytes of all that is stored, scales included."""

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """Everything `quantize` reads: it can be placed behind the last of these."""

    def quantize(self, build: Build, value: fx.Node) -> Stored:
        """Nodes whose values are saved."""

    def dequantize(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """A node with `value`'s shape, dtype and strides, made from the saved nodes."""


@dataclass(frozen=True)
class Layout:
    """A dense tensor seen in its memory order (contiguous), with the dimension that codes are packed along."""

    order: tuple[int, ...]
    shape: tuple[Any, ...]
    dtype: torch.dtype
    pack_dim: int

    @classmethod
    def of(cls, value: torch.Tensor, bits: int) -> Layout:
        """The layout of a dense tensor."""
        order = memory_order(value)
        assert order is not None, "the choice of quantizers keeps a tensor exact that is not dense"
        shape = tuple(value.shape[dim] for dim in order)
        return cls(tuple(order), shape, value.dtype, pack_dim(shape, bits))

    @property
    def length(self) -> Any:
        """Unpacked length of the packed dimension."""
        return self.shape[self.pack_dim]

    def place(self, dim: int) -> int:
        """Where the tensor's dimension `dim` lies in memory order."""
        return self.order.index(dim)

    def into(self, build: Build, node: fx.Node) -> fx.Node:
        """The value with its dimensions in memory order."""
        return node if self._straight else build.call(aten.permute.default, node, list(self.order))

    def back(self, build: Build, node: fx.Node) -> fx.Node:
        """The inverse of `into`."""
        inverse = [self.order.index(dim) for dim in range(len(self.order))]
        return node if self._straight else build.call(aten.permute.default, node, inverse)

    @property
    def _straight(self) -> bool:
        return self.order == tuple(range(len(self.order)))


def side_of(build: Build, mask: Mask, layout: Layout) -> fx.Node:
    """The forward's own comparison, True above the threshold, in memory order."""
    side = mask.node if mask.positive else build.call(aten.logical_not.default, mask.node)
    return layout.into(build, side)


def mask_from(build: Build, mask: Mask, layout: Layout, side: fx.Node) -> fx.Node:
    """The inverse of `side_of`: the mask itself, from a decoded side."""
    restored = layout.back(build, side)
    return restored if mask.positive else build.call(aten.logical_not.default, restored)


def code_bytes(value: torch.Tensor, bits: int) -> int:
    """Bytes of the packed codes of a tensor."""
    layout = Layout.of(value, bits)
    length = sizes(value)[layout.order[layout.pack_dim]]
    return numel(value) // max(length, 1) * packed_length(length, bits)


def fake_tensor_of(value: fx.Node) -> torch.Tensor:
    """The node's fake tensor."""
    result = tensor(value)
    assert result is not None, f"{value} is not a tensor"
    return result
