"""torch.autograd.profiler: the allocator's events."""

from __future__ import annotations

import torch


def allocations(profiler: torch.profiler.profile) -> list[tuple[int, int]]:
    """(time in ns, bytes) of every CPU allocation (positive) and release (negative) that a profile recorded."""
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    return [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
