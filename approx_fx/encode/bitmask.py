"""Bitmask encoding: a bool tensor, lossless, in one bit per element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.fake_values import is_bool
from ..ops import bitmask as ops
from .base import Build, Code, Layout, Stored, code_bytes, fake_tensor_of
from .context import Context


@dataclass(frozen=True)
class Bitmask(Code):
    """One bit per element."""

    name: ClassVar[str] = "bitmask"
    bits: ClassVar[int] = 1
    preferred: ClassVar[bool] = True

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> Bitmask | None:
        """The encoding of any bool tensor; None for other values."""
        return cls() if is_bool(value) else None

    def nbytes(self, value: torch.Tensor) -> int:
        """Bytes of the codes."""
        return code_bytes(value, 1)

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """Only the mask."""
        return [value]

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """Saves (codes,)."""
        layout = Layout.of(fake_tensor_of(value), 1)
        return (build.call(ops.quantize_bitmask.overload, layout.to_memory_order(build, value), layout.pack_dim),)

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Restores the mask, bit for bit."""
        layout = Layout.of(fake_tensor_of(value), 1)
        restored = build.call(ops.dequantize_bitmask.overload, stored[0], layout.pack_dim, layout.length)
        return layout.from_memory_order(build, restored)
