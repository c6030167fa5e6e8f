"""The `torch.library` ops that encode and decode saved tensors, and cheap functions of decoded values."""

from __future__ import annotations

from contextlib import suppress

from . import bitmask, channel, fixed_range, group, index, row, smooth, stochastic
from .registry import OPS, Op, approximates, op_of, reference_of

with suppress(ImportError):
    from . import triton  # noqa: F401  Registers the Triton kernels where triton is installed.

__all__ = [
    "OPS",
    "Op",
    "approximates",
    "bitmask",
    "channel",
    "fixed_range",
    "group",
    "index",
    "op_of",
    "reference_of",
    "row",
    "smooth",
    "stochastic",
]
