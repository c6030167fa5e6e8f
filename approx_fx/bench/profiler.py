"""torch.autograd.profiler: read the allocator's events of a profile."""

from __future__ import annotations

from typing import Any

import torch


def allocations(profiler: torch.profiler.profile) -> list[tuple[int, int]]:
    """(time in ns, bytes) of every CPU allocation (positive) and release (negative) in a profile."""
    results: Any = profiler.profiler.kineto_results  # type: ignore[union-attr]
    return [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
