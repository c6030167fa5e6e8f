"""Gradients are finite where the exact ones are, and only there, parameter by parameter."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import approx_fx

NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "batch norm": lambda: (
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3)),
        torch.randn(8, 3, 12, 12),
    ),
    "batch norm first": lambda: (
        nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)),
        torch.randn(8, 3, 12, 12),
    ),
    "layer norm": lambda: (
        nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 8)), torch.randn(64, 32),
    ),
    "RMS norm": lambda: (
        nn.Sequential(nn.Linear(32, 64), nn.RMSNorm(64), nn.SiLU(), nn.Linear(64, 8)), torch.randn(64, 32),
    ),
    "sigmoid": lambda: (
        nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid(), nn.Linear(64, 8)),
        torch.randn(64, 32),
    ),
    "softmax": lambda: (
        nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 64), nn.Softmax(-1), nn.Linear(64, 8)),
        torch.randn(64, 32),
    ),
}  # fmt: skip


@pytest.mark.parametrize("value", [1e30, math.inf, math.nan])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_where_gradients_are_finite(name: str, bits: int, value: float) -> None:
    torch.manual_seed(0)
    model, x = NETWORKS[name]()
    x.view(-1)[5] = value
    exact = copy.deepcopy(model)
    approx_fx.convert(exact, bits=None, compiler="eager")
    approx_fx.convert(model, bits=bits, min_bytes=0, compiler="eager", strict=True)
    for each in (exact, model):
        each(x).sum().backward()
    for (parameter, right), ours in zip(exact.named_parameters(), model.parameters(), strict=True):
        assert right.grad is not None and ours.grad is not None
        assert bool(ours.grad.isfinite().all()) == bool(right.grad.isfinite().all()), parameter
