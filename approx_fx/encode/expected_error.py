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
from ..ops.channel import step_in_sigmas
from ..ops.fixed_range import grid_of
from .base import Quantizer
from .channel import Channel
from .fixed_range import Unit
from .group import Group, Relu, Tile
from .row_sigma import Sigma
from .stochastic import Stochastic

NORMAL = NormalDist()
PER_BIN = 1 / math.sqrt(12)
# Rounding up or down at random, with the chances that make it right on average, doubles the mean square.
AT_RANDOM = math.sqrt(2)
# (bounds) -> the root mean square of a sigmoid or a tanh of a standard Gaussian.
UNIT_SIZE = {(0.0, 1.0): 0.5416, (-1.0, 1.0): 0.6279}


def expected_error(quantizer: Quantizer, value: torch.Tensor) -> float:
    """The relative error of a Gaussian value's code, or of its ReLU's; 0.0 where the code is exact."""
    if isinstance(quantizer, (Channel, Sigma)):
        return in_sigmas(step_in_sigmas(quantizer.bits, quantizer.grid), quantizer.bits)
    if isinstance(quantizer, Unit):
        step = grid_of(quantizer.low, quantizer.high, quantizer.bits)[1]
        return step * PER_BIN / UNIT_SIZE.get((quantizer.low, quantizer.high), 1.0)
    if isinstance(quantizer, (Group, Relu, Stochastic)):
        tiles = Tile.of(value, quantizer.group, quantizer.along).count(value)
        extreme = extreme_of(numel(value) / max(tiles, 1))
        one_sided = isinstance(quantizer, Relu) or (isinstance(quantizer, Stochastic) and quantizer.mask is not None)
        bins = 2**quantizer.bits - (not isinstance(quantizer, Group))
        if isinstance(quantizer, Stochastic) and one_sided:
            bins -= 1  # between the codes above 0, which rounding at random goes up or down to
        step = (extreme if one_sided else 2 * extreme) / max(bins, 1)
        return step * PER_BIN * (AT_RANDOM if isinstance(quantizer, Stochastic) else 1.0)
    return 0.0


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
