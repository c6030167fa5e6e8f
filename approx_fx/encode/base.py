"""What an encoding is: a frozen dataclass that prices, stores and restores one value, and says how wrong it will be."""

from __future__ import annotations

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
    """The part of the node constructor that encodings use."""

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new node."""


class Encoding(Protocol):
    """How one value is stored: everything that the plan, the passes and the report ask about it.

    coded: whether codes are stored, not the value itself. preferred: of two that cost the same, the one to take.
    """

    @property
    def name(self) -> str:
        """The encoding's name in the report."""

    @property
    def bits(self) -> int:
        """Bits of a code; 0 if the value is stored as it is."""

    @property
    def coded(self) -> bool:
        """See the class."""

    @property
    def preferred(self) -> bool:
        """See the class."""

    def nbytes(self, value: torch.Tensor) -> int:
        """Bytes of all that is stored, scales included."""

    def expected_error(self, value: torch.Tensor) -> float:
        """Root mean square of the error, relative to the value's, if the value is Gaussian; 0.0 where it is exact."""

    def why_exact(self) -> str:
        """A key of `exact.REASONS` if the value is stored as it is, else ''."""

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """Everything `encode` reads: it can be placed behind the last of these."""

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """Nodes whose values are saved."""

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """A node with `value`'s shape, dtype and strides, made from the saved nodes."""

    def owned_mask(self) -> fx.Node | None:
        """The mask that is a bit of the code, if there is one."""

    def decode_mask(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The owned mask, bit for bit."""

    def batch_norm(self) -> BatchNorm | None:
        """The batch normalisation in whose sigmas the value is coded, if there is one."""

    def decode_centred(
        self, build: Build, stored: Stored, value: fx.Node, dtype: torch.dtype, in_sigmas: bool
    ) -> fx.Node:
        """x - mean of that normalisation, or (x - mean) / sigma, straight from the codes."""


class Code:
    """What is the same for most encodings: no mask is a bit of the code, and it is in sigmas of no batch norm."""

    coded: ClassVar[bool] = True
    preferred: ClassVar[bool] = False

    def why_exact(self) -> str:
        """The value is coded."""
        return ""

    def expected_error(self, value: torch.Tensor) -> float:
        """The code is exact."""
        return 0.0

    def owned_mask(self) -> fx.Node | None:
        """None."""
        return None

    def decode_mask(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Raises NotImplementedError: no mask is a bit of this code."""
        raise NotImplementedError(f"no mask is a bit of a {type(self).__name__} code")

    def batch_norm(self) -> BatchNorm | None:
        """None."""
        return None

    def decode_centred(
        self, build: Build, stored: Stored, value: fx.Node, dtype: torch.dtype, in_sigmas: bool
    ) -> fx.Node:
        """Raises NotImplementedError: this code is not in sigmas of a batch normalisation."""
        raise NotImplementedError(f"a {type(self).__name__} code is not in sigmas of a batch normalisation")


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
        assert order is not None, "the choice of encodings keeps a tensor exact that is not dense"
        shape = tuple(value.shape[dim] for dim in order)
        return cls(tuple(order), shape, value.dtype, pack_dim(shape, bits))

    @property
    def length(self) -> Any:
        """Unpacked length of the packed dimension."""
        return self.shape[self.pack_dim]

    def dim_in_memory(self, dim: int) -> int:
        """Where the tensor's dimension `dim` lies in memory order."""
        return self.order.index(dim)

    def to_memory_order(self, build: Build, node: fx.Node) -> fx.Node:
        """The value with its dimensions in memory order."""
        return node if self._is_identity else build.call(aten.permute.default, node, list(self.order))

    def from_memory_order(self, build: Build, node: fx.Node) -> fx.Node:
        """The inverse of `to_memory_order`."""
        inverse = [self.order.index(dim) for dim in range(len(self.order))]
        return node if self._is_identity else build.call(aten.permute.default, node, inverse)

    @property
    def _is_identity(self) -> bool:
        return self.order == tuple(range(len(self.order)))


def side_of(build: Build, mask: Mask, layout: Layout) -> fx.Node:
    """The forward's own comparison, True above the threshold, in memory order."""
    side = mask.node if mask.positive else build.call(aten.logical_not.default, mask.node)
    return layout.to_memory_order(build, side)


def mask_from(build: Build, mask: Mask, layout: Layout, side: fx.Node) -> fx.Node:
    """The inverse of `side_of`: the mask itself, from a decoded side."""
    restored = layout.from_memory_order(build, side)
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
