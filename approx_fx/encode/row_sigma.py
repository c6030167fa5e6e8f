"""Row encoding: the input of a layer, RMS, group or instance norm, coded in units of each row's sigma."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.fake_values import numel, shape, tensor
from ..joint.op_table import ELEMENT_PRESERVING, skip_ops
from ..joint.row_norms import RowNorm
from ..ops import row as ops
from ..ops.channel import step_in_sigmas
from .base import Build, Code, Encoding, Layout, Stored, aten, code_bytes, fake_tensor_of
from .better import ladder
from .context import Context
from .gaussian_error import in_sigmas
from .group import Group


@dataclass(frozen=True)
class RowSigma(Code):
    """`bits` per element; mean and 1/sigma of each row are those that the norm's own backward reads.

    norm: the norm over rows. normal: whether the value is the normalised one, (x - mean) rstd, on a fixed grid.
    """

    bits: int
    grid: str
    norm: RowNorm
    normal: bool
    name: ClassVar[str] = "row"
    preferred: ClassVar[bool] = True

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> RowSigma | None:
        """The encoding of a norm's input or normalised value, if the option `rows` is "sigma"; None for other values.

        It is not the default because its fixed range clips outliers. It does not apply to a group norm over several
        channels, which share its statistics: tiles within a channel have a smaller error (U-Net, 4 bits: a gradient
        error of 0.13 instead of 0.16).
        """
        if context.config.rows != "sigma":
            return None
        normalized = context.row_norms.by_normalized.get(skip_ops(value, ELEMENT_PRESERVING))
        norm = normalized or context.row_norms.by_input.get(value)
        if norm is None:
            return None
        fake = fake_tensor_of(value)
        try:
            groups = groups_of(norm, fake)
        except ValueError:
            return None
        if groups is not None and fake.ndim > 3 and groups < fake.shape[1]:
            return None
        return cls(context.bits(value), context.config.grid, norm, normalized is not None)

    def alternatives(self, value: fx.Node, context: Context) -> Sequence[Encoding]:
        """Tiles by minimum and maximum, more bits."""
        return ladder(value, self.bits, context, Group, self)

    def expected_error(self, value: torch.Tensor) -> float:
        """The error of bins that are a fixed number of sigmas wide."""
        return in_sigmas(step_in_sigmas(self.bits, self.grid), self.bits)

    def nbytes(self, value: torch.Tensor) -> int:
        """Bytes of the codes. The statistics are saved for the norm's backward in any case, and counted there."""
        return code_bytes(value, self.bits)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value and its statistics."""
        return [node for node in (value, None if self.normal else self.norm.mean, self.norm.rstd) if node is not None]

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """Saves (codes, rstd) or (codes, rstd, mean)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        mean, rstd = self._statistics(build, value, layout, self.inputs(value)[1:])
        codes = build.call(
            ops.quantize_row.overload, layout.to_memory_order(build, value), mean, None if self.normal else rstd,
            self.bits, self.grid, layout.pack_dim,
        )  # fmt: skip
        return (
            (codes, self.norm.rstd) if len(self.inputs(value)) == 2 else (codes, self.norm.rstd, self.inputs(value)[1])
        )

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Decodes to the middle of each bin."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        mean, rstd = self._statistics(build, value, layout, [*stored[2:], stored[1]])
        restored = build.call(
            ops.dequantize_row.overload, stored[0], mean, rstd, self.normal, self.bits, self.grid, layout.pack_dim,
            layout.length, layout.dtype,
        )  # fmt: skip
        return layout.from_memory_order(build, restored)

    def _statistics(
        self, build: Build, value: fx.Node, layout: Layout, statistics: list[fx.Node]
    ) -> tuple[fx.Node | None, fx.Node | None]:
        """(mean or None, rstd), which broadcast against the value in memory order, from [rstd] or [mean, rstd]."""
        fitted = [layout.to_memory_order(build, self._fitted(build, node, value)) for node in statistics]
        return (None, fitted[0]) if len(fitted) == 1 else (fitted[0], fitted[1])

    def _fitted(self, build: Build, node: fx.Node, value: fx.Node) -> fx.Node:
        """A statistic, reshaped to broadcast against the value if the norm reads another view of it."""
        groups = groups_of(self.norm, fake_tensor_of(value))
        if groups is None:
            return node
        batch, channels, *space = (int(size) for size in fake_tensor_of(value).shape)
        flat = build.call(aten.reshape.default, node, [batch, groups, 1])
        if groups != channels:
            flat = build.call(aten.expand.default, flat, [batch, groups, channels // groups])
        return build.call(aten.reshape.default, flat, [batch, channels, *(1 for _ in space)])


def groups_of(norm: RowNorm, value: torch.Tensor) -> int | None:
    """Rows per element of the batch if norm.x is another view of the value [N, C, ...]; None if it has its shape.

    Raises ValueError if the statistics do not fit the value.
    """
    x, rstd = tensor(norm.x), tensor(norm.rstd)
    assert x is not None and rstd is not None
    if shape(x) == shape(value):
        return None
    is_static = all(isinstance(size, int) for size in [*x.shape, *value.shape])
    if not is_static or value.ndim < 3 or numel(x) != numel(value):
        raise ValueError("the statistics do not fit the value")
    reduced = [dim for dim in range(x.ndim) if rstd.shape[dim] == 1 and x.shape[dim] != 1]
    batch, channels = int(value.shape[0]), int(value.shape[1])
    groups, remainder = divmod(numel(rstd), batch)
    reduces_last = reduced == list(range(x.ndim - len(reduced), x.ndim))
    if remainder or not reduces_last or not groups or channels % groups:
        raise ValueError("the statistics do not fit the value")
    return groups
