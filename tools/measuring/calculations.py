"""Arithmetic of results: means, the Pareto front, and the batch that a memory holds. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """One system: its step's time and its peak, both relative to torch.compile's, lower is better."""

    system: str
    time: float
    memory: float


def geometric_mean(values: Iterable[float]) -> float | None:
    """The geometric mean of positive numbers, None of none."""
    found = list(values)
    return math.exp(math.fsum(map(math.log, found)) / len(found)) if found else None


def dominated(points: Iterable[Point]) -> set[str]:
    """The systems that another is no worse than in time and in memory, and better than in one of them."""
    all_points = list(points)
    return {
        one.system
        for one in all_points
        for other in all_points
        if other.time <= one.time
        and other.memory <= one.memory
        and (other.time < one.time or other.memory < one.memory)
    }


def pareto(runs: Mapping[str, Mapping[str, Any]], base: str = "compile") -> list[Point]:
    """A point for each run that did not fail, relative to `base`; none where `base` failed or is missing."""
    if "step_seconds" not in runs.get(base, {}):
        return []
    time, memory = runs[base]["step_seconds"], runs[base]["peak_bytes"]
    return [
        Point(name, run["step_seconds"] / time, run["peak_bytes"] / memory)
        for name, run in runs.items()
        if "step_seconds" in run and "failed" not in run
    ]


def extrapolated_batch(small: tuple[int, int], large: tuple[int, int], memory: int, multiple: int = 1) -> int:
    """The largest batch, a multiple of `multiple`, whose peak fits `memory` bytes, on the line through two peaks.

    small, large: (batch, peak in bytes). At least `multiple`.
    Raises ValueError where the peak does not grow with the batch: then nothing can be said.
    """
    slope = (large[1] - small[1]) / (large[0] - small[0])
    if slope <= 0:
        raise ValueError(
            f"the peak does not grow from batch {small[0]} ({small[1]} bytes) to batch {large[0]} ({large[1]} bytes): "
            "measure at larger batches"
        )
    found = large[0] + (memory - large[1]) / slope
    return max(int(found // multiple), 1) * multiple


def search(fits: Callable[[int], bool], guess: int, multiple: int = 1, probes: int = 6) -> int | None:
    """The largest batch found to fit, a multiple of `multiple`, by at most `probes` calls; None if none fitted.

    From `guess` by tenths up or down until one fits and one does not, then halving the space between.
    """
    low: int | None = None
    high: int | None = None
    batch = guess
    for _ in range(probes):
        if fits(batch):
            low = batch
        else:
            high = batch
        if low is not None and high is not None:
            batch = (low + high) // 2
        else:
            batch = max(int(batch * (1.1 if high is None else 0.9)), 1)
        batch = max(batch // multiple, 1) * multiple
        if low is not None and high is None and batch <= low:
            batch = low + multiple
        if batch in (low, high):
            break
    return low
