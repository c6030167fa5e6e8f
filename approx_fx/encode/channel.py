"""Channel: a tensor that the forward normalises over its batch, coded in units of its own sigma."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.batch_norm import BatchNorm
from ..joint.fake_values import shape
from ..joint.masks import Mask
from ..ops import channel as ops
from .base import Build, Code, Layout, Stored, code_bytes, fake_tensor_of, mask_from, side_of
from .context import Context
from .gaussian_error import in_sigmas


@dataclass(frozen=True)
class Channel(Code):
    """K bits an element and three numbers a channel; `mask`, if any, is a bit of the code."""

    bits: int
    grid: str
    norm: BatchNorm
    mask: Mask | None
    name: ClassVar[str] = "channel"
    preferred: ClassVar[bool] = True

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> Channel | None:
        """For what enters a batch normalisation; a mask of its output whose threshold the grid can carry goes along."""
        norm = context.batch_norms.get(value)
        if norm is None or shape(value) != shape(norm.x):
            return None
        aligned = [mask for mask in norm.masks if shape(mask.node) == shape(value)]
        return cls(context.bits(value), context.config.grid, norm, aligned[0] if aligned else None)

    def expected_error(self, value: torch.Tensor) -> float:
        """Of bins of a fixed number of sigmas."""
        return in_sigmas(ops.step_in_sigmas(self.bits, self.grid), self.bits)

    def owned_mask(self) -> fx.Node | None:
        """The side of the threshold that the grid is aligned with."""
        return None if self.mask is None else self.mask.node

    def batch_norm(self) -> BatchNorm | None:
        """The one that the value enters."""
        return self.norm

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes and grid."""
        return code_bytes(value, self.bits) + 3 * 4 * int(value.shape[self.norm.dim])

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value, its statistics, gamma and beta, and the forward's own comparison."""
        norm = self.norm
        inputs = [value, norm.mean, norm.rstd]
        if self.mask is not None:
            inputs += [node for node in (norm.weight, norm.bias, self.mask.node) if node is not None]
        return inputs

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """(codes, grid)."""
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
        """The middle of each bin."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        codes, grid = stored
        restored = build.call(
            ops.dequantize_channel.overload, codes, grid, self.bits, layout.dim_in_memory(self.norm.dim),
            layout.pack_dim, layout.length, layout.dtype,
        )  # fmt: skip
        return layout.from_memory_order(build, restored)

    def decode_mask(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The mask, bit for bit."""
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
        """The middle of each bin. In sigmas, a grid that is aligned with no mask needs no row of constants."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        codes, grid = stored
        rows = None if in_sigmas and self.mask is None else grid
        centred = build.call(
            ops.dequantize_centred.overload, codes, rows, self.bits, self.grid, in_sigmas,
            layout.dim_in_memory(self.norm.dim), layout.pack_dim, layout.length, dtype,
        )  # fmt: skip
        return layout.from_memory_order(build, centred)


def _deviation(build: Build, norm: BatchNorm) -> list[fx.Node]:
    """On a GPU: sqrt(var + eps).

    There a grid is computed in the kernel that ends the reduction; one that stores 1 / sqrt(var + eps) and computes
    from it what it subtracts from the mean, Triton 3.6 can't compile ("operand #0 does not dominate this use").
    """
    value = norm.rstd.meta["val"]
    return [build.call(torch.ops.aten.sqrt.default, norm.rstd.args[0])] if value.is_cuda else []
