"""Better encodings, for values on which the usual one was measured to fail: other tiles, more bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import fx

from ..joint.fake_values import nbytes, tensor
from .base import Encoding
from .context import Context

# An eighth of the usual tile: an outlier widens the grid for fewer neighbours.
SMALL_TILE = 32
WIDEST = 8


def ladder(
    value: fx.Node, bits: int, context: Context, coded: Callable[[int, int, str], Encoding], tried: Encoding
) -> Sequence[Encoding]:
    """Encodings of a value, fewer bytes first: tiles in one channel or feature, small tiles, both in more bits.

    In one channel an outlier channel, which lies far from all others at every token, widens no other's grid. coded:
    (bits, group, grouping) -> an encoding. tried: what failed, which is left out.
    """
    fake = tensor(value)
    assert fake is not None, "only a value that is one tensor is coded"
    group = context.tile(value)
    one_channel = "space" if value in context.facts.images else "tokens"
    widths = sorted({bits, min(2 * bits, WIDEST), WIDEST})
    tiles = [(group, one_channel), (min(group, SMALL_TILE), context.grouping(value)), (SMALL_TILE, one_channel)]
    codes = [coded(width, *tile) for width in widths for tile in [*tiles, (group, context.grouping(value))]]
    smaller = [code for code in codes if code != tried and code.nbytes(fake) < nbytes(value)]
    return sorted(smaller, key=lambda code: code.nbytes(fake))
