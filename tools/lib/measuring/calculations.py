"""Arithmetic on results, without torch: means, the Pareto front, and the batch that fits a memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """A system's step time and peak memory, both relative to torch.compile; lower is better."""

    system: str
    time: float
    memory: float


def geometric_mean(values: Iterable[float]) -> float | None:
    """The geometric mean of positive numbers; None if there are none."""
    numbers = list(values)
    return math.exp(math.fsum(map(math.log, numbers)) / len(numbers)) if numbers else None


def dominated(points: Iterable[Point]) -> set[str]:
    """The systems dominated by another, which is at least as good in time and memory and better in one of them."""
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
    """A point for each run that did not fail, relative to `base`; empty if `base` failed or is missing."""
    if "step_seconds" not in runs.get(base, {}):
        return []
    time, memory = runs[base]["step_seconds"], runs[base]["peak_bytes"]
    return [
        Point(name, run["step_seconds"] / time, run["peak_bytes"] / memory)
        for name, run in runs.items()
        if "step_seconds" in run and "failed" not in run
    ]


def extrapolated_batch(small: tuple[int, int], large: tuple[int, int], memory: int, multiple: int = 1) -> int:
    """Extrapolate linearly from two peaks the largest batch, a multiple of `multiple`, that fits `memory` bytes.

    small, large: (batch, peak in bytes). At least `multiple`.
    Raises ValueError if the peak does not grow with the batch, so that nothing can be extrapolated.
    """
    slope = (large[1] - small[1]) / (large[0] - small[0])
    if slope <= 0:
        raise ValueError(
            f"the peak does not grow from batch {small[0]} ({small[1]} bytes) to batch {large[0]} ({large[1]} bytes): "
            "measure at larger batches"
        )
    batch = large[0] + (memory - large[1]) / slope
    return max(int(batch // multiple), 1) * multiple


def search(fits: Callable[[int], bool], guess: int, multiple: int = 1, probes: int = 6) -> int | None:
    """Search for the largest batch that fits, a multiple of `multiple`, with at most `probes` calls; None if none fits.

    Starting from `guess`, the batch changes by 10 % until one fits and one does not; then the interval is bisected.
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
