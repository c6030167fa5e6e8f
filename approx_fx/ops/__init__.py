"""Ops of the approximate graph: `quantize_*`, `dequantize_*`, and functions of decoded values."""

from __future__ import annotations

from contextlib import suppress

from . import bitmask, channel, group, index, row, smooth, stochastic, unit
from .registry import OPS, Op, reference_of

with suppress(ImportError):
    from . import cuda  # noqa: F401  Registers the kernels, where triton can be imported.

__all__ = ["OPS", "Op", "bitmask", "channel", "group", "index", "reference_of", "row", "smooth", "stochastic", "unit"]
