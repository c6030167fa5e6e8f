"""Fixed-range encoding: the output of a function with known bounds, coded on a fixed grid."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.op_table import ELEMENT_PRESERVING, skip_ops, traits
from ..ops import fixed_range as ops
from .base import Build, Code, Encoding, Layout, Stored, code_bytes, fake_tensor_of
from .better import ladder
from .context import Context
from .gaussian_error import PER_BIN
from .group import Group

# (low, high) -> root mean square of sigmoid(z), or tanh(z), for a standard Gaussian z
ROOT_MEAN_SQUARE = {(0.0, 1.0): 0.5416, (-1.0, 1.0): 0.6279}


@dataclass(frozen=True)
class FixedRange(Code):
    """`bits` per element and one NaN flag per tensor. low, high: the range of the values."""

    bits: int
    low: float
    high: float
    name: ClassVar[str] = "unit"

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> FixedRange | None:
        """The encoding of the result of an op whose range is in the table of ops; None for other values."""
        bounds = traits(skip_ops(value, ELEMENT_PRESERVING)).output_range
        return cls(context.bits(value), *bounds) if bounds is not None else None

    def alternatives(self, value: fx.Node, context: Context) -> Sequence[Encoding]:
        """Tiles, whose grid fits values near an end of the range, more bits."""
        return ladder(value, self.bits, context, Group, self)

    def expected_error(self, value: torch.Tensor) -> float:
        """The error of bins of a fixed width."""
        bounds = (self.low, self.high)
        return ops.grid_of(*bounds, self.bits)[1] * PER_BIN / ROOT_MEAN_SQUARE.get(bounds, 1.0)

    def nbytes(self, value: torch.Tensor) -> int:
        """Bytes of the codes and of the NaN flag."""
        return code_bytes(value, self.bits) + 4

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """Only the value."""
        return [value]

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """Saves (codes, NaN flag)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        codes_and_flag = build.call(
            ops.quantize_unit.overload,
            layout.to_memory_order(build, value),
            self.low,
            self.high,
            self.bits,
            layout.pack_dim,
        )
        return build.call(operator.getitem, codes_and_flag, 0), build.call(operator.getitem, codes_and_flag, 1)

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Decodes to the grid point of each code."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        restored = build.call(
            ops.dequantize_unit.overload, *stored, self.low, self.high, self.bits, layout.pack_dim, layout.length,
            layout.dtype,
        )  # fmt: skip
        return layout.from_memory_order(build, restored)
