"""Channel: a tensor that the forward normalises over its batch, coded in units of its own sigma."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.batch_norm import BatchNorm
from ..joint.masks import Mask
from ..ops import channel as ops
from .base import Build, Layout, Stored, code_bytes, fake_tensor_of, mask_from, side_of


@dataclass(frozen=True)
class Channel:
    """K bits an element and three numbers a channel; `mask`, if any, is a bit of the code."""

    bits: int
    grid: str
    chain: BatchNorm
    mask: Mask | None
    name: ClassVar[str] = "channel"

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes and grid."""
        return code_bytes(value, self.bits) + 3 * 4 * int(value.shape[self.chain.dim])

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value, its statistics, gamma and beta, and the forward's own comparison."""
        chain = self.chain
        found = [value, chain.mean, chain.rstd]
        if self.mask is not None:
            found += [node for node in (chain.weight, chain.bias, self.mask.node) if node is not None]
        return found

    def quantize(self, build: Build, value: fx.Node) -> Stored:
        """(codes, grid)."""
        chain, layout = self.chain, Layout.of(fake_tensor_of(value), self.bits)
        threshold = self.mask.threshold if self.mask is not None else None
        affine = (chain.weight, chain.bias) if self.mask is not None else (None, None)
        grid = build.call(
            ops.channel_grid.overload, chain.mean, chain.rstd, *affine, threshold, self.bits, self.grid,
            *_deviation(build, chain),
        )  # fmt: skip
        side = side_of(build, self.mask, layout) if self.mask is not None else None
        codes = build.call(
            ops.quantize_channel.overload, layout.into(build, value), grid, side, self.bits,
            layout.place(chain.dim), layout.pack_dim,
        )  # fmt: skip
        return codes, grid

    def dequantize(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The middle of each bin."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        codes, grid = stored
        restored = build.call(
            ops.dequantize_channel.overload, codes, grid, self.bits, layout.place(self.chain.dim),
            layout.pack_dim, layout.length, layout.dtype,
        )  # fmt: skip
        return layout.back(build, restored)

    def dequantize_mask(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The mask, bit for bit."""
        assert self.mask is not None
        layout = Layout.of(fake_tensor_of(value), self.bits)
        codes, grid = stored
        side = build.call(
            ops.dequantize_channel_side.overload, codes, grid, self.bits, layout.place(self.chain.dim),
            layout.pack_dim, layout.length,
        )  # fmt: skip
        return mask_from(build, self.mask, layout, side)


def _deviation(build: Build, chain: BatchNorm) -> list[fx.Node]:
    """On a GPU: sqrt(var + eps).

    There a grid is computed in the kernel that ends the reduction; one that stores 1 / sqrt(var + eps) and computes
    from it what it subtracts from the mean, Triton 3.6 can't compile ("operand #0 does not dominate this use").
    """
    value = chain.rstd.meta["val"]
    return [build.call(torch.ops.aten.sqrt.default, chain.rstd.args[0])] if value.is_cuda else []
