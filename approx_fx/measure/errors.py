"""The error of a copy of a value, as one number that is 0 for an exact copy.

The error is relative and is taken block by block, each block against its own root mean square, because a gradient reads
them apart: a row (one sample, one token) is multiplied by its own incoming gradient and by the statistics of its own
norm; a channel (a feature) makes its own entries in the gradients of weights and scales. Over the whole tensor one loud
feature would hide that all others are lost. With E the squared error of a block and S the square of its values,

    error = max over {whole, rows, channels} of  sqrt(mean over blocks of min(1, E / S)),

in which a block weighs as the root of its root mean square: less than a loud one, for so does its part of a gradient,
but not so much less that one loud feature hides that all others are lost. A block of zeros does not count.

In a channel whose own mean is near 0, as behind a normalisation, sums cancel; errors that are the same everywhere, as
those of a background that lies between two points of the grid, do not, and do more harm than their size. With m^2 the
square of such a channel's mean error, less what independent errors would have by chance, COHERENT * sqrt(mean over
channels of min(1, m^2 / S)) is in the maximum, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# A copy that is not finite where the value is.
NOT_FINITE = math.inf
# What an error that all elements of a channel share counts, against one that is independent from element to element.
COHERENT = 8.0
# The square of the sum of n independent errors is their squares' sum; up to this many times that is taken for chance.
CHANCE = 4.0
# How much less an error counts against min(p, 1 - p) than against p.
SATURATED = 6.0
# How many matrices of scores are measured, of how many tokens.
SCORE_BATCH, SCORE_TOKENS = 16, 256
# A channel counts as centred if the square of its mean is below this part of its mean square.
CENTRED = 0.1


def relative_error(value: Tensor, copy: Tensor, channel_dim: int | None) -> float:
    """The error of `copy`, of the value's shape; `NOT_FINITE` if an element is not finite where the value's is.

    channel_dim: the dimension of the channels; None for a value without, which is measured as a whole. Where it is the
    last, all others are rows, else dimension 0 is. Elements at which the value is not finite are left out.
    """
    value, copy = value.detach().float(), copy.detach().float()
    if not value.numel():
        return 0.0
    difference = copy - value
    largest = float(value.abs().amax())
    if not (math.isfinite(largest) and math.isfinite(float(difference.abs().amax()))):
        finite = value.isfinite()
        if bool((finite & ~copy.isfinite()).any()):
            return NOT_FINITE
        difference, value = torch.where(finite, difference, 0.0), torch.where(finite, value, 0.0)
        largest = float(value.abs().amax())
    if largest == 0.0:
        return float(bool((difference != 0).any()))
    difference, value = difference / largest, value / largest
    every = list(range(value.ndim))
    error = _over_blocks(difference, value, every)
    if value.ndim < 2 or channel_dim is None:
        return error
    in_row = [channel_dim] if channel_dim == every[-1] else every[1:]
    in_channel = [dim for dim in every if dim != channel_dim]
    return max(error, _over_blocks(difference, value, in_row), _over_channels(difference, value, in_channel))


def probability_error(value: Tensor, copy: Tensor) -> float:
    """The error of a softmax's output p, relative to p, or a sixth of that relative to min(p, 1 - p) if it is larger.

    The softmax's backward reads p (g - sum p g): where p is almost 1, that difference is almost 0, and an error that is
    small against p is large against it. `NOT_FINITE` as in `relative_error`.
    """
    value, copy = value.detach().float(), copy.detach().float()
    difference = torch.where(value.isfinite(), copy - value, 0.0)
    if not math.isfinite(float(difference.abs().sum())):
        return NOT_FINITE
    slope = torch.minimum(value, 1 - value).clamp_min(0).nan_to_num()
    error, size = float(difference.norm()), max(float(slope.norm()), 1e-30)
    return min(max(error / max(float(value.nan_to_num().norm()), 1e-30), error / (SATURATED * size)), 1.0)


def attended_error(value: Tensor, copy: Tensor, attended: Tensor) -> float:
    """The error of an attention's value operand or output, [..., tokens, features].

    It is relative to how much the value operand `attended` varies over the tokens, for the softmax's backward subtracts
    from each of its products with the gradient their mean. `NOT_FINITE` as in `relative_error`.
    """
    varying = attended.detach().float() - attended.detach().float().mean(-2, keepdim=True)
    error = relative_error(value, copy, None)
    size, variation = (float(item.detach().float().square().mean().sqrt()) for item in (value, varying))
    return max(error, error * size / variation if variation > 0 else 0.0)


def score_error(exact: Sequence[Tensor], copies: Sequence[Tensor], scale: float | None = None) -> float:
    """The root mean square error of an attention's scores, q k times `scale`, weighted by their probabilities.

    exact, copies: (q, k) of shape [..., tokens, features]. scale: 1 / sqrt(features) if None. Some rows of the first
    matrices are measured; a mask is left out.
    """
    (q, k), (q_copy, k_copy) = (
        [item.detach().reshape(-1, *item.shape[-2:])[:SCORE_BATCH, :SCORE_TOKENS].float() for item in pair]
        for pair in (exact, copies)
    )
    if k.shape[0] != q.shape[0]:  # several heads of q share one of k
        repeats = -(-q.shape[0] // k.shape[0])
        k, k_copy = (item.repeat_interleave(repeats, 0)[: q.shape[0]] for item in (k, k_copy))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = q @ k.transpose(-1, -2) * scale
    difference = q_copy @ k_copy.transpose(-1, -2) * scale - scores
    if not bool(scores.isfinite().all()):
        return 0.0
    squares = (scores.softmax(-1) * difference.square().nan_to_num(math.inf, math.inf)).sum(-1)
    return math.sqrt(float(squares.mean()))


def _over_blocks(difference: Tensor, value: Tensor, dims: list[int]) -> float:
    """The weighted mean over blocks; each block is all elements along `dims`."""
    return math.sqrt(float(_mean(_squares(difference, dims), _squares(value, dims))))


def _over_channels(difference: Tensor, value: Tensor, dims: list[int]) -> float:
    """The same for channels, or for the errors that each channel's elements share. dims: all but the channels'."""
    count = math.prod(value.shape[dim] for dim in dims)
    errors, sizes = _squares(difference, dims), _squares(value, dims)
    shared = (difference.sum(dims).double().square() - CHANCE * errors).clamp_min(0) / max(count, 1)
    is_centred = value.sum(dims).double().square() / max(count, 1) < CENTRED * sizes
    shared = torch.where(is_centred, shared, 0.0)
    return max(math.sqrt(float(_mean(errors, sizes))), COHERENT * math.sqrt(float(_mean(shared, sizes))))


def _squares(values: Tensor, dims: list[int]) -> Tensor:
    """The sum of squares along `dims`."""
    return torch.linalg.vector_norm(values, dim=dims).double().square()


def _mean(errors: Tensor, sizes: Tensor) -> Tensor:
    """The mean of min(1, error / size) over blocks, weighted by the roots of their root mean squares."""
    weights = sizes.sqrt().sqrt()
    ratios = torch.where(sizes > 0, errors / sizes.clamp_min(1e-300), 0.0).clamp_max(1.0)
    return (ratios * weights).sum() / weights.sum()
