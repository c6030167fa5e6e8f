"""The interface of encodings: frozen dataclasses that price, encode and decode a saved value and estimate its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import fx

from ..joint.batch_norm import BatchNorm
from ..joint.fake_values import memory_order, numel, sizes, tensor
from ..joint.masks import Mask
from ..ops.pack import pack_dim, packed_length

aten = torch.ops.aten
Stored = tuple[fx.Node, ...]


class Build(Protocol):
    """The part of `passes.node_builder.Builder` that encodings use."""

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new node that calls `target`."""


class Encoding(Protocol):
    """An encoding stores one value for the backward. The plan, the passes and the report use only this interface."""

    @property
    def name(self) -> str:
        """The encoding's name in the report."""

    @property
    def bits(self) -> int:
        """Bits of a code; 0 if the value is stored as it is."""

    @property
    def coded(self) -> bool:
        """Whether codes are stored, not the value itself."""

    @property
    def preferred(self) -> bool:
        """True if the minimum cut should keep a value in this encoding rather than another of the same size."""

    def nbytes(self, value: torch.Tensor) -> int:
        """Bytes of all that is stored, scales included."""

    def expected_error(self, value: torch.Tensor) -> float:
        """Root mean square error relative to the value's root mean square, if it is Gaussian; 0.0 if lossless."""

    def alternatives(self, value: fx.Node, context: Any) -> Sequence[Encoding]:
        """Codes for a value on which this one was measured to fail, the cheapest first; behind them it is kept exact.

        context: of type `Context`.
        """

    def why_exact(self) -> str:
        """The key in `exact.REASONS` of the reason why the value is stored as it is; '' if it is coded."""

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """All nodes that `encode` reads; its own nodes go behind the last of them."""

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """Add the nodes that encode the value; returns those that are saved."""

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Add the nodes that decode `stored`, the saved nodes; returns one with `value`'s shape, dtype and strides."""

    def owned_mask(self) -> fx.Node | None:
        """The mask that is a bit of the code, or None."""

    def decode_mask(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Add the nodes that decode the owned mask, bit for bit; returns the last."""

    def batch_norm(self) -> BatchNorm | None:
        """The batch normalisation in whose sigmas the value is coded, or None."""

    def decode_centred(
        self, build: Build, stored: Stored, value: fx.Node, dtype: torch.dtype, in_sigmas: bool
    ) -> fx.Node:
        """Add the nodes that decode x - mean of `batch_norm()`, or (x - mean) / sigma if `in_sigmas`, in `dtype`."""


class Code:
    """Defaults of encodings: lossless codes, no owned mask, not in sigmas of a batch normalisation."""

    coded: ClassVar[bool] = True
    preferred: ClassVar[bool] = False

    def alternatives(self, value: fx.Node, context: Any) -> Sequence[Encoding]:
        """None: what this encoding fails on is kept exact."""
        return ()

    def why_exact(self) -> str:
        """'', because the value is coded."""
        return ""

    def expected_error(self, value: torch.Tensor) -> float:
        """0.0, because the code is lossless."""
        return 0.0

    def owned_mask(self) -> fx.Node | None:
        """None: no mask is a bit of this code."""
        return None

    def decode_mask(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Never called: only an encoding whose `owned_mask` is not None decodes a mask, and it overrides this."""
        raise AssertionError(f"{type(self).__name__} owns no mask to decode")

    def batch_norm(self) -> BatchNorm | None:
        """None: this code is not in sigmas of a batch normalisation."""
        return None

    def decode_centred(
        self, build: Build, stored: Stored, value: fx.Node, dtype: torch.dtype, in_sigmas: bool
    ) -> fx.Node:
        """Never called: only an encoding whose `batch_norm` is not None decodes this, and it overrides this."""
        raise AssertionError(f"{type(self).__name__} is not in sigmas of a batch normalisation")


@dataclass(frozen=True)
class Layout:
    """The layout of a dense tensor, by which ops see it as a contiguous one.

    order: dimensions from the outermost to the innermost in memory. shape: sizes in that order. dtype: the tensor's.
    pack_dim: the index in `shape` along which codes are packed.
    """

    order: tuple[int, ...]
    shape: tuple[Any, ...]
    dtype: torch.dtype
    pack_dim: int

    @classmethod
    def of(cls, value: torch.Tensor, bits: int) -> Layout:
        """The layout of a dense tensor with codes of this width."""
        order = memory_order(value)
        assert order is not None, "the choice of encodings keeps a tensor exact that is not dense"
        shape = tuple(value.shape[dim] for dim in order)
        return cls(tuple(order), shape, value.dtype, pack_dim(shape, bits))

    @property
    def length(self) -> Any:
        """Unpacked length of the packed dimension."""
        return self.shape[self.pack_dim]

    def dim_in_memory(self, dim: int) -> int:
        """The index in `shape` of the tensor's dimension `dim`."""
        return self.order.index(dim)

    def to_memory_order(self, build: Build, node: fx.Node) -> fx.Node:
        """The value permuted to memory order, in which it is contiguous."""
        return node if self._is_identity else build.call(aten.permute.default, node, list(self.order))

    def from_memory_order(self, build: Build, node: fx.Node) -> fx.Node:
        """The value permuted from memory order to its own order of dimensions."""
        inverse = [self.order.index(dim) for dim in range(len(self.order))]
        return node if self._is_identity else build.call(aten.permute.default, node, inverse)

    @property
    def _is_identity(self) -> bool:
        return self.order == tuple(range(len(self.order)))


def side_of(build: Build, mask: Mask, layout: Layout) -> fx.Node:
    """The forward's own comparison as a node that is True above the threshold, in memory order."""
    side = mask.node if mask.positive else build.call(aten.logical_not.default, mask.node)
    return layout.to_memory_order(build, side)


def mask_from(build: Build, mask: Mask, layout: Layout, side: fx.Node) -> fx.Node:
    """The mask, from a decoded `side` as `side_of` returns it."""
    restored = layout.from_memory_order(build, side)
    return restored if mask.positive else build.call(aten.logical_not.default, restored)


def code_bytes(value: torch.Tensor, bits: int) -> int:
    """Bytes of the packed codes of a tensor."""
    layout = Layout.of(value, bits)
    length = sizes(value)[layout.order[layout.pack_dim]]
    return numel(value) // max(length, 1) * packed_length(length, bits)


def fake_tensor_of(value: fx.Node) -> torch.Tensor:
    """The fake tensor of a node whose value is a tensor."""
    result = tensor(value)
    assert result is not None, f"{value} is not a tensor"
    return result
