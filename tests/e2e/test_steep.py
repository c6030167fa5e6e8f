"""Functions that turn a small error in a large argument into a large one: their results are coded, not recomputed."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import approx_fx
from tests.support.hard_nets import Siren


@pytest.mark.parametrize(("bits", "least"), [(8, 0.999), (4, 0.98)])
@pytest.mark.parametrize("frequency", [1.0, 10.0, 30.0, 100.0])
def test_sines_of_large_arguments(frequency: float, bits: int, least: float) -> None:
    model, x = Siren(frequency), torch.rand(512, 2) * 2 - 1
    exact = copy.deepcopy(model)
    approx_fx.convert(model, bits=bits, min_bytes=256, compiler="eager", strict=True)
    for each in (exact, model):
        each(x).square().mean().backward()
    for (name, right), ours in zip(exact.named_parameters(), model.parameters(), strict=True):
        assert right.grad is not None and ours.grad is not None
        assert F.cosine_similarity(ours.grad.flatten(), right.grad.flatten(), dim=0) > least, name
    assert approx_fx.report(model).ratio > 25 / bits
