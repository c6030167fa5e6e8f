"""The error to expect of a code: root mean square, relative to the value's own, if what is coded is Gaussian.

A bin of width D adds D / sqrt(12) where a value is equally likely anywhere in it. What a window of a fixed number of
sigmas clips is added for the grids in sigmas; a scale found by min and max clips nothing, and its bin follows from the
extremes that so many Gaussian values are expected to have (Blom 1958: the quantile of (n - 3/8) / (n + 1/4)).
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import torch

from ..joint.fake_values import numel
from .tile import Tile

NORMAL = NormalDist()
PER_BIN = 1 / math.sqrt(12)


def in_tiles(value: torch.Tensor, tile: Tile, bins: int, one_sided: bool) -> float:
    """The error where min and max of each tile, or 0 and its maximum, are `bins` bins apart."""
    extreme = extreme_of(numel(value) / max(tile.count(value), 1))
    return (extreme if one_sided else 2 * extreme) / max(bins, 1) * PER_BIN


@lru_cache(64)
def in_sigmas(step: float, bits: int) -> float:
    """The error of 2^bits bins of this width around the mean of a standard Gaussian; the outermost clip."""
    half = 2 ** (bits - 1)
    total, fine = 0.0, 64
    for index in range(8 * half * fine):
        x = (index + 0.5) * step / fine
        if x > 8:
            break
        middle = (min(int(x / step), half - 1) + 0.5) * step
        total += 2 * (x - middle) ** 2 * NORMAL.pdf(x) * step / fine
    return math.sqrt(total)


def extreme_of(count: float) -> float:
    """The largest of `count` standard Gaussian values, on average."""
    return max(NORMAL.inv_cdf((count - 0.375) / (count + 0.25)), 0.0) if count > 1 else 0.0
