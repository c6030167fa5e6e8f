"""Means, standard deviations and differences of runs, as numbers and as cells of a Markdown table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The mean of some values, their standard deviation, and the standard error of the mean.

    The last two are None for one value; all are NaN if a value is NaN.
    """

    mean: float
    deviation: float | None
    error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Compute the spread of at least one value."""
        count = len(values)
        mean = sum(values) / count
        if count == 1:
            return cls(mean, None, None)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
        return cls(mean, deviation, deviation / math.sqrt(count))


def paired(values: Mapping[int, float], exact: Mapping[int, float]) -> Spread | None:
    """The spread of the differences to exact runs of the same seeds, which cancels what a seed's runs share.

    values, exact: seed -> value. None if they have no seed in common.
    """
    shared_seeds = [seed for seed in values if seed in exact]
    return Spread.of([values[seed] - exact[seed] for seed in shared_seeds]) if shared_seeds else None


def with_deviation(values: Sequence[float], digits: int = 2) -> str:
    """`mean ± standard deviation`; `mean` for one value, `diverged` if a value is NaN."""
    spread = Spread.of(values)
    return _cell(f"{spread.mean:.{digits}f}", spread.mean, spread.deviation, digits)


def with_error(spread: Spread | None, digits: int = 2) -> str:
    """`+mean ± standard error` of differences; `+mean, one seed` for a single one; '' for None."""
    if spread is None:
        return ""
    text = _cell(f"{spread.mean:+.{digits}f}", spread.mean, spread.error, digits)
    return text if spread.error is not None else f"{text}, one seed"


def _cell(text: str, mean: float, spread: float | None, digits: int) -> str:
    if math.isnan(mean):
        return "diverged"
    return text if spread is None else f"{text} ± {spread:.{digits}f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column left-aligned, the others right-aligned."""
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
