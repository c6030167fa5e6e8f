"""Measured bytes of a step, from the allocator: the peak, and what is still alive at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Live:
    """Bytes of a measured call beyond those alive at its start. peak: at most during it; held: alive at its end."""

    peak: int
    held: int


def measure(call: Callable[[], object]) -> Live:
    """Measure live bytes during `call`, on a CPU by the profiler's allocation events, on CUDA by the allocator."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return _measure_cuda(call)
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    live = peak = 0
    for event in sorted(_allocations(profiler), key=lambda pair: pair[0]):
        live += event[1]
        peak = max(peak, live)
    del result
    return Live(peak, live)


def _allocations(profiler: torch.profiler.profile) -> list[tuple[int, int]]:
    from .profiler import allocations

    return allocations(profiler)


def _measure_cuda(call: Callable[[], object]) -> Live:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    live = Live(torch.cuda.max_memory_allocated() - start, torch.cuda.memory_allocated() - start)
    del result
    return live


def peak_bytes(step: Callable[[], object]) -> int:
    """The most bytes alive at once during `step`, above what was alive before it."""
    return measure(step).peak
