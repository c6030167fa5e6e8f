"""Ops of the approximate graph: `torch.ops.approx_fx.quantize_*` and `dequantize_*`."""

from __future__ import annotations

from contextlib import suppress

from . import bitmask, channel, group, index, row, stochastic, unit
from .registry import OPS, Op, reference_of

with suppress(ImportError):
    from . import cuda  # noqa: F401  Registers the kernels, where triton can be imported.

__all__ = ["OPS", "Op", "bitmask", "channel", "group", "index", "reference_of", "row", "stochastic", "unit"]
