"""Bitmask: a bool tensor in one bit an element, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..ops import bitmask as ops
from .base import Build, Layout, Stored, code_bytes, fake_tensor_of


@dataclass(frozen=True)
class Bitmask:
    """One bit an element."""

    name: ClassVar[str] = "bitmask"
    bits: ClassVar[int] = 1

    def nbytes(self, value: torch.Tensor) -> int:
        """Codes."""
        return code_bytes(value, 1)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The mask alone."""
        return [value]

    def quantize(self, build: Build, value: fx.Node) -> Stored:
        """(codes,)."""
        layout = Layout.of(fake_tensor_of(value), 1)
        return (build.call(ops.quantize_bitmask.overload, layout.into(build, value), layout.pack_dim),)

    def dequantize(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The mask, bit for bit."""
        layout = Layout.of(fake_tensor_of(value), 1)
        restored = build.call(ops.dequantize_bitmask.overload, stored[0], layout.pack_dim, layout.length)
        return layout.back(build, restored)
