"""Row: what a layer, RMS, group or instance norm reads, coded in units of its own row's sigma."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.fake_values import numel, shape, tensor
from ..joint.op_table import ELEMENT_PRESERVING
from ..joint.ops import skip_ops
from ..joint.row_norms import RowNorm
from ..ops import row as ops
from ..ops.channel import step_in_sigmas
from .base import Build, Code, Layout, Stored, aten, code_bytes, fake_tensor_of
from .context import Context
from .gaussian_error import in_sigmas


@dataclass(frozen=True)
class RowSigma(Code):
    """K bits an element; the row's mean and 1/sigma are those that the normalisation's own backward needs.

    normal: the value is the normalised one, (x - mean) rstd, on a fixed grid.
    """

    bits: int
    grid: str
    row: RowNorm
    normal: bool
    name: ClassVar[str] = "row"
    preferred: ClassVar[bool] = True

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> RowSigma | None:
        """For what enters a norm over rows, or leaves it normalised, if asked for: its window clips outliers.

        A group norm's statistics are those of several channels at once; each channel's own tiles are coded better
        (U-Net, 4 bits: a gradient error of 0.13 instead of 0.16), so they do not fit either.
        """
        if context.config.rows != "sigma":
            return None
        normalized = context.row_norms.by_normalized.get(skip_ops(value, ELEMENT_PRESERVING))
        row = normalized or context.row_norms.by_input.get(value)
        if row is None:
            return None
        own = fake_tensor_of(value)
        try:
            groups = channels_of(row, own)
        except ValueError:
            return None
        if groups is not None and own.ndim > 3 and groups < own.shape[1]:
            return None
        return cls(context.bits(value), context.config.grid, row, normalized is not None)

    def expected_error(self, value: torch.Tensor) -> float:
        """Of bins of a fixed number of sigmas."""
        return in_sigmas(step_in_sigmas(self.bits, self.grid), self.bits)

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes. The statistics are saved for the normalisation's backward, and counted there."""
        return code_bytes(value, self.bits)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value and its statistics."""
        return [node for node in (value, None if self.normal else self.row.mean, self.row.rstd) if node is not None]

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """(codes, rstd) or (codes, rstd, mean)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        mean, rstd = self._statistics(build, value, layout, self.inputs(value)[1:])
        codes = build.call(
            ops.quantize_row.overload, layout.to_memory_order(build, value), mean, None if self.normal else rstd,
            self.bits, self.grid, layout.pack_dim,
        )  # fmt: skip
        return (codes, self.row.rstd) if len(self.inputs(value)) == 2 else (codes, self.row.rstd, self.inputs(value)[1])

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The middle of each bin."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        mean, rstd = self._statistics(build, value, layout, [*stored[2:], stored[1]])
        restored = build.call(
            ops.dequantize_row.overload, stored[0], mean, rstd, self.normal, self.bits, self.grid, layout.pack_dim,
            layout.length, layout.dtype,
        )  # fmt: skip
        return layout.from_memory_order(build, restored)

    def _statistics(
        self, build: Build, value: fx.Node, layout: Layout, found: list[fx.Node]
    ) -> tuple[fx.Node | None, fx.Node | None]:
        """(mean or None, rstd), broadcasting against the value in memory order."""
        fitted = [layout.to_memory_order(build, self._fitted(build, node, value)) for node in found]
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
