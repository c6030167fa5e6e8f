"""Triton kernels of the ops for CUDA tensors, each equal to its reference bit for bit. Importing needs triton.

Without triton, CUDA tensors are handled by the references. `channel_grid` has no kernel: its tensors are of C elements.
"""

from __future__ import annotations

from . import bitmask, channel, fixed_range, group

__all__ = ["bitmask", "channel", "fixed_range", "group"]
