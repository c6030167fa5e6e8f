"""The relative error of a copy: what it must see, and what it must not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from approx_fx.measure.errors import COHERENT, NOT_FINITE, relative_error, score_error


def noise(value: Tensor, size: float) -> Tensor:
    return value + size * torch.randn_like(value)


def test_an_exact_copy_has_none() -> None:
    value = torch.randn(64, 32)
    assert relative_error(value, value.clone(), 1) == 0.0


@pytest.mark.parametrize("channel_dim", [None, 1])
def test_independent_noise_counts_as_its_size(channel_dim: int | None) -> None:
    value = torch.randn(512, 64)
    assert relative_error(value, noise(value, 0.1), channel_dim) == pytest.approx(0.1, rel=0.1)


def test_one_loud_channel_does_not_hide_the_others() -> None:
    value = torch.randn(512, 64)
    value[:, 3] *= 1000
    copy = torch.zeros_like(value)
    copy[:, 3] = value[:, 3]
    assert relative_error(value, copy, None) < 0.01
    assert relative_error(value, copy, 1) > 0.7


def test_one_loud_row_does_not_hide_the_others() -> None:
    value = torch.randn(64, 512)
    value[3] *= 1000
    copy = torch.zeros_like(value)
    copy[3] = value[3]
    assert relative_error(value, copy, None) < 0.06
    assert relative_error(value, copy, 1) > 0.7


def test_a_few_faint_channels_count_little() -> None:
    value = torch.randn(512, 64)
    value[:, 3] *= 1e-4
    copy = value.clone()
    copy[:, 3] = 0
    assert relative_error(value, copy, 1) < 0.03


def test_an_error_that_is_the_same_everywhere_in_a_centred_channel() -> None:
    value = torch.randn(4096, 8)
    assert relative_error(value, value + 0.05, 1) == pytest.approx(COHERENT * 0.05, rel=0.05)
    assert relative_error(value + 10, value + 10 + 0.05, 1) < 0.01  # a channel far from 0 has no sums that cancel


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_where_the_value_is(wrong: float) -> None:
    value = torch.randn(16, 8)
    copy = value.clone()
    copy[3, 3] = wrong
    assert relative_error(value, copy, 1) == NOT_FINITE


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_elements_that_are_not_finite_are_left_out(wrong: float) -> None:
    value = torch.randn(16, 8)
    value[3, 3] = wrong
    assert relative_error(value, torch.where(value.isfinite(), value, 7.0), 1) == 0.0


def test_zeros() -> None:
    value = torch.zeros(16, 8)
    assert relative_error(value, value.clone(), 1) == 0.0
    assert relative_error(value, value + 1, 1) == 1.0
    assert relative_error(torch.zeros(0, 8), torch.zeros(0, 8), 1) == 0.0


def test_the_scale_of_the_value_does_not_matter() -> None:
    value = torch.randn(64, 32)
    copy = noise(value, 0.2)
    errors = [relative_error(value * scale, copy * scale, 1) for scale in (1e-30, 1.0, 1e30)]
    assert errors == pytest.approx([errors[1]] * 3, rel=1e-3)


def test_the_error_of_scores_follows_the_attention_s_scale() -> None:
    q, k = torch.randn(2, 32, 64), torch.randn(2, 32, 64)
    copies = noise(q, 0.1), noise(k, 0.1)
    assert score_error((q, k), copies) == pytest.approx(0.14, rel=0.3)
    assert score_error((q, k), copies, scale=1.0) > 5 * score_error((q, k), copies)
