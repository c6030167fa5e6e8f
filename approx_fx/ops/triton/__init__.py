"""Triton kernels of the ops for CUDA tensors, each equal to its reference bit for bit. Importing needs triton.

Without triton the references run on CUDA tensors, too. `channel_grid` has no kernel: its tensors hold C elements.
"""

from __future__ import annotations

from . import bitmask, channel, fixed_range, group

__all__ = ["bitmask", "channel", "fixed_range", "group"]
