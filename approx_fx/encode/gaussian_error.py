"""The expected error of a code: root mean square relative to the value's root mean square, for Gaussian values.

A bin of width D has an error of D / sqrt(12) if values are equally likely anywhere in it. For grids in sigmas the error
of clipped values is added. A scale by min and max clips nothing; its bin width follows from the expected extremes of
the n Gaussian values in a tile (Blom 1958: the quantile of (n - 3/8) / (n + 1/4)).
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
    """The error if min and max of each tile, or 0 and max if `one_sided`, are `bins` bins apart."""
    extreme = extreme_of(numel(value) / max(tile.count(value), 1))
    return (extreme if one_sided else 2 * extreme) / max(bins, 1) * PER_BIN


@lru_cache(64)
def in_sigmas(step: float, bits: int) -> float:
    """The error of 2^bits bins, `step` wide, around the mean of a standard Gaussian; the outermost bins clip."""
    half = 2 ** (bits - 1)
    variance, samples = 0.0, 64  # samples per bin of the numerical integral
    for index in range(8 * half * samples):
        x = (index + 0.5) * step / samples
        if x > 8:
            break
        middle = (min(int(x / step), half - 1) + 0.5) * step
        variance += 2 * (x - middle) ** 2 * NORMAL.pdf(x) * step / samples
    return math.sqrt(variance)


def extreme_of(count: float) -> float:
    """The expected largest of `count` standard Gaussian values."""
    return max(NORMAL.inv_cdf((count - 0.375) / (count + 0.25)), 0.0) if count > 1 else 0.0
