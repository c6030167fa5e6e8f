"""Unit range: the output of a function with known bounds, on a fixed grid."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..ops import fixed_range as ops
from .base import Build, Layout, Stored, code_bytes, fake_tensor_of

# op -> the bounds of its output
BOUNDS = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "hardsigmoid": (0.0, 1.0)}


@dataclass(frozen=True)
class Unit:
    """K bits an element and one number a tensor."""

    bits: int
    low: float
    high: float
    name: ClassVar[str] = "unit"

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes and the NaN flag."""
        return code_bytes(value, self.bits) + 4

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value alone."""
        return [value]

    def quantize(self, build: Build, value: fx.Node) -> Stored:
        """(codes, NaN flag)."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        both = build.call(
            ops.quantize_unit.overload, layout.into(build, value), self.low, self.high, self.bits, layout.pack_dim
        )
        return build.call(operator.getitem, both, 0), build.call(operator.getitem, both, 1)

    def dequantize(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The middle of each bin."""
        layout = Layout.of(fake_tensor_of(value), self.bits)
        restored = build.call(
            ops.dequantize_unit.overload, *stored, self.low, self.high, self.bits, layout.pack_dim, layout.length,
            layout.dtype,
        )  # fmt: skip
        return layout.back(build, restored)
