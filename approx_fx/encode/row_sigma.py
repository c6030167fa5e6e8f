"""Row: what a layer, RMS, group or instance norm reads, coded in units of its own row's sigma."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.fake_values import numel, shape, tensor
from ..joint.row_norms import RowNorm
from ..ops import row as ops
from .base import Build, Layout, Stored, aten, code_bytes, fake_tensor_of


@dataclass(frozen=True)
class Sigma:
    """K bits an element; the row's mean and 1/sigma are those that the normalisation's own backward needs.

    normal: the value is the normalised one, (x - mean) rstd, on a fixed grid.
    """

    bits: int
    grid: str
    row: RowNorm
    normal: bool
    name: ClassVar[str] = "row"

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes. The statistics are saved for the normalisation's backward, and counted there."""
        return code_bytes(value, self.bits)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value and its statistics."""
        return [node for node in (value, None if self.normal else self.row.mean, self.row.rstd) if node is not None]

    def quantize(self, build: Build, value: fx.Node) -> Stored:
        """(codes, rstd) or (codes, rstd, mean)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        mean, rstd = self._statistics(build, value, layout, self.inputs(value)[1:])
        codes = build.call(
            ops.quantize_row.overload, layout.into(build, value), mean, None if self.normal else rstd, self.bits,
            self.grid, layout.pack_dim,
        )  # fmt: skip
        return (codes, self.row.rstd) if len(self.inputs(value)) == 2 else (codes, self.row.rstd, self.inputs(value)[1])

    def dequantize(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The middle of each bin."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        mean, rstd = self._statistics(build, value, layout, [*stored[2:], stored[1]])
        restored = build.call(
            ops.dequantize_row.overload, stored[0], mean, rstd, self.normal, self.bits, self.grid, layout.pack_dim,
            layout.length, layout.dtype,
        )  # fmt: skip
        return layout.back(build, restored)

    def _statistics(
        self, build: Build, value: fx.Node, layout: Layout, found: list[fx.Node]
    ) -> tuple[fx.Node | None, fx.Node | None]:
        """(mean or None, rstd), broadcasting against the value in memory order."""
        fitted = [layout.into(build, self._fitted(build, node, value)) for node in found]
        return (None, fitted[0]) if len(fitted) == 1 else (fitted[0], fitted[1])

    def _fitted(self, build: Build, node: fx.Node, value: fx.Node) -> fx.Node:
        groups = channels_of(self.row, fake_tensor_of(value))
        if groups is None:
            return node
        batch, channels, *space = (int(size) for size in fake_tensor_of(value).shape)
        flat = build.call(aten.reshape.default, node, [batch, groups, 1])
        if groups != channels:
            flat = build.call(aten.expand.default, flat, [batch, groups, channels // groups])
        return build.call(aten.reshape.default, flat, [batch, channels, *(1 for _ in space)])


def channels_of(row: RowNorm, value: torch.Tensor) -> int | None:
    """Rows in each element of the batch, where x is another view of the value [N, C, ...]; None where x fits as it is.

    Raises ValueError where the statistics do not fit the value.
    """
    x, rstd = tensor(row.x), tensor(row.rstd)
    assert x is not None and rstd is not None
    if shape(x) == shape(value):
        return None
    known = all(isinstance(size, int) for size in [*x.shape, *value.shape])
    if not known or value.ndim < 3 or numel(x) != numel(value):
        raise ValueError("the statistics do not fit the value")
    reduced = [dim for dim in range(x.ndim) if rstd.shape[dim] == 1 and x.shape[dim] != 1]
    batch, channels = int(value.shape[0]), int(value.shape[1])
    groups, left = divmod(numel(rstd), batch)
    trailing = reduced == list(range(x.ndim - len(reduced), x.ndim))
    if left or not trailing or not groups or channels % groups:
        raise ValueError("the statistics do not fit the value")
    return groups


def sigma(bits: int, grid: str, row: RowNorm, value: fx.Node, normal: bool) -> Sigma | None:
    """The quantizer for a value that enters `row`, or leaves it normalised; None where the statistics do not fit.

    A group norm's are those of several channels at once; each channel's own tiles are coded better (U-Net, 4 bits: a
    gradient error of 0.13 instead of 0.16), so they do not fit either.
    """
    try:
        groups = channels_of(row, fake_tensor_of(value))
    except ValueError:
        return None
    if groups is not None and value.meta["val"].ndim > 3 and groups < value.meta["val"].shape[1]:
        return None
    return Sigma(bits, grid, row, normal)
