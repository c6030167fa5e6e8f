"""Channel encoding: the input of a batch normalisation, coded in units of each channel's sigma."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.batch_norm import BatchNorm
from ..joint.fake_values import shape
from ..joint.masks import Mask
from ..ops import channel as ops
from .base import Build, Code, Encoding, Layout, Stored, code_bytes, fake_tensor_of, mask_from, side_of
from .better import ladder
from .context import Context
from .gaussian_error import in_sigmas
from .group import Group


@dataclass(frozen=True)
class Channel(Code):
    """`bits` per element and a grid per channel. norm: the batch normalisation. mask: a bit of the code, or None."""

    bits: int
    grid: str
    norm: BatchNorm
    mask: Mask | None
    name: ClassVar[str] = "channel"
    preferred: ClassVar[bool] = True

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> Channel | None:
        """The encoding of a batch normalisation's input, which owns a mask of its output if there is one; else None."""
        norm = context.batch_norms.get(value)
        if norm is None or shape(value) != shape(norm.x):
            return None
        masks = [mask for mask in norm.masks if shape(mask.node) == shape(value)]
        return cls(context.bits(value), context.config.grid, norm, masks[0] if masks else None)

    def alternatives(self, value: fx.Node, context: Context) -> Sequence[Encoding]:
        """Tiles by minimum and maximum, which clip nothing, more bits."""
        return ladder(value, self.bits, context, Group, self)

    def expected_error(self, value: torch.Tensor) -> float:
        """The error of bins that are a fixed number of sigmas wide."""
        return in_sigmas(ops.step_in_sigmas(self.bits, self.grid), self.bits)

    def owned_mask(self) -> fx.Node | None:
        """The comparison with the threshold that the grid is aligned with, or None."""
        return None if self.mask is None else self.mask.node

    def batch_norm(self) -> BatchNorm | None:
        """The batch normalisation that reads the value."""
        return self.norm

    def nbytes(self, value: torch.Tensor) -> int:
        """Bytes of the codes, and of three float32 per channel."""
        return code_bytes(value, self.bits) + 3 * 4 * int(value.shape[self.norm.dim])

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value, its statistics, gamma and beta, and the forward's own comparison."""
        norm = self.norm
        inputs = [value, norm.mean, norm.rstd]
        if self.mask is not None:
            inputs += [node for node in (norm.weight, norm.bias, self.mask.node) if node is not None]
        return inputs

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """Saves (codes, grid)."""
        norm, layout = self.norm, Layout.of(fake_tensor_of(value), self.bits)
        threshold = self.mask.threshold if self.mask is not None else None
        affine = (norm.weight, norm.bias) if self.mask is not None else (None, None)
        grid = build.call(
            ops.channel_grid.overload, norm.mean, norm.rstd, *affine, threshold, self.bits, self.grid,
            *_deviation(build, norm),
        )  # fmt: skip
        side = side_of(build, self.mask, layout) if self.mask is not None else None
        codes = build.call(
            ops.quantize_channel.overload, layout.to_memory_order(build, value), grid, side, self.bits,
            layout.dim_in_memory(norm.dim), layout.pack_dim,
        )  # fmt: skip
        return codes, grid

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Decodes to the middle of each bin."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        codes, grid = stored
        restored = build.call(
            ops.dequantize_channel.overload, codes, grid, self.bits, layout.dim_in_memory(self.norm.dim),
            layout.pack_dim, layout.length, layout.dtype,
        )  # fmt: skip
        return layout.from_memory_order(build, restored)

    def decode_mask(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Restores the mask, bit for bit."""
        assert self.mask is not None
        layout = Layout.of(fake_tensor_of(value), self.bits)
        codes, grid = stored
        side = build.call(
            ops.dequantize_channel_side.overload, codes, grid, self.bits, layout.dim_in_memory(self.norm.dim),
            layout.pack_dim, layout.length,
        )  # fmt: skip
        return mask_from(build, self.mask, layout, side)

    def decode_centred(
        self, build: Build, stored: Stored, value: fx.Node, dtype: torch.dtype, in_sigmas: bool
    ) -> fx.Node:
        """Decodes to the middle of each bin; in sigmas, a grid that is aligned with no mask is not read."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        codes, grid = stored
        grid_read = None if in_sigmas and self.mask is None else grid
        centred = build.call(
            ops.dequantize_centred.overload, codes, grid_read, self.bits, self.grid, in_sigmas,
            layout.dim_in_memory(self.norm.dim), layout.pack_dim, layout.length, dtype,
        )  # fmt: skip
        return layout.from_memory_order(build, centred)


def _deviation(build: Build, norm: BatchNorm) -> list[fx.Node]:
    """[sqrt(var + eps)] on a GPU, else [].

    On a GPU the grid is computed in the kernel that ends the reduction. Triton 3.6 fails to compile that kernel if it
    stores 1 / sqrt(var + eps) and derives the step from it ("operand #0 does not dominate this use").
    """
    value = norm.rstd.meta["val"]
    return [build.call(torch.ops.aten.sqrt.default, norm.rstd.args[0])] if value.is_cuda else []
