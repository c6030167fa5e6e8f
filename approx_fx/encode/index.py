"""Index encoding: integers below a known bound, such as offsets in a pooling window, lossless, in the fewest bits."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.fake_values import memory_order, numel, tensor
from ..joint.op_table import name_of
from ..ops import index as ops
from .base import Build, Code, Layout, Stored, aten, code_bytes, fake_tensor_of
from .context import Context


@dataclass(frozen=True)
class Index(Code):
    """`bits` per element: 1 to 8 in packed codes; 16 or 32 as an integer dtype."""

    bits: int
    name: ClassVar[str] = "index"

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> Index | None:
        """The encoding of a pooling's offsets or indices, whose bound is known; None for other values."""
        bits, fake = index_bits(value), tensor(value)
        return cls(bits) if bits is not None and fake is not None and memory_order(fake) is not None else None

    def nbytes(self, value: torch.Tensor) -> int:
        """Bytes of the codes."""
        return code_bytes(value, self.bits) if self.bits <= 8 else numel(value) * self.bits // 8

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """Only the value."""
        return [value]

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """Saves (codes,)."""
        if self.bits > 8:
            return (build.call(aten._to_copy.default, value, dtype=getattr(torch, f"int{self.bits}")),)
        layout = Layout.of(fake_tensor_of(value), self.bits)
        return (
            build.call(ops.quantize_index.overload, layout.to_memory_order(build, value), self.bits, layout.pack_dim),
        )

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Restores the integers exactly."""
        if self.bits > 8:
            return build.call(aten._to_copy.default, stored[0], dtype=fake_tensor_of(value).dtype)
        layout = Layout.of(fake_tensor_of(value), self.bits)
        restored = build.call(
            ops.dequantize_index.overload, stored[0], self.bits, layout.pack_dim, layout.length, layout.dtype
        )
        return layout.from_memory_order(build, restored)


def index_bits(value: fx.Node) -> int | None:
    """The bits that hold any of a pooling's offsets or indices: 1 to 8, 16 or 32; None for other values."""
    pool = value.args[0] if value.target is operator.getitem and value.args[1] == 1 else None
    if not isinstance(pool, fx.Node):
        return None
    name = name_of(pool)
    if name == "_low_memory_max_pool_with_offsets":
        bound = math.prod(pool.args[1])  # type: ignore[arg-type]
    elif name in ("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "fractional_max_pool2d"):
        image = tensor(pool.args[0])  # type: ignore[arg-type]
        sizes = image.shape[-3 if "3d" in name else -2 :] if image is not None else ("?",)
        if not all(isinstance(size, int) for size in sizes):
            return None
        bound = math.prod(sizes)  # type: ignore[arg-type]
    else:
        return None
    bits = max(int(bound) - 1, 1).bit_length()
    return bits if bits <= 8 else 16 if bits <= 15 else 32
