"""Unit range: the output of a function with known bounds, on a fixed grid."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.op_table import ELEMENT_PRESERVING, traits
from ..joint.ops import skip_ops
from ..ops import fixed_range as ops
from .base import Build, Code, Layout, Stored, code_bytes, fake_tensor_of
from .context import Context
from .gaussian_error import PER_BIN

# (low, high) -> the root mean square of the function of a standard Gaussian that has this range.
ROOT_MEAN_SQUARE = {(0.0, 1.0): 0.5416, (-1.0, 1.0): 0.6279}


@dataclass(frozen=True)
class FixedRange(Code):
    """K bits an element and one number a tensor."""

    bits: int
    low: float
    high: float
    name: ClassVar[str] = "unit"

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> FixedRange | None:
        """For the result of an op whose range is in the table of ops."""
        bounds = traits(skip_ops(value, ELEMENT_PRESERVING)).output_range
        return cls(context.bits(value), *bounds) if bounds is not None else None

    def expected_error(self, value: torch.Tensor) -> float:
        """Of bins of a fixed width."""
        bounds = (self.low, self.high)
        return ops.grid_of(*bounds, self.bits)[1] * PER_BIN / ROOT_MEAN_SQUARE.get(bounds, 1.0)

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes and the NaN flag."""
        return code_bytes(value, self.bits) + 4

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value alone."""
        return [value]

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """(codes, NaN flag)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        both = build.call(
            ops.quantize_unit.overload,
            layout.to_memory_order(build, value),
            self.low,
            self.high,
            self.bits,
            layout.pack_dim,
        )
        return build.call(operator.getitem, both, 0), build.call(operator.getitem, both, 1)

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The middle of each bin."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        restored = build.call(
            ops.dequantize_unit.overload, *stored, self.low, self.high, self.bits, layout.pack_dim, layout.length,
            layout.dtype,
        )  # fmt: skip
        return layout.from_memory_order(build, restored)
