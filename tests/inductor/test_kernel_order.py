"""Copies of weights between two halves of a convolution's backward go into the kernel before them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._inductor.utils import run_and_get_code

import approx_fx
from approx_fx.bench.compare import flat_gradients


def stack() -> nn.Module:
    layers = [layer for _ in range(3) for layer in (nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), *layers)


def step(model: nn.Module, x: torch.Tensor) -> None:
    model(x).square().mean().backward()


def kernels(model: nn.Module, x: torch.Tensor) -> int:
    """C++ functions of a backward."""
    _, codes = run_and_get_code(step, model, x)
    return codes[-1].count("= async_compile.cpp_pybinding(")


@pytest.mark.cpp
def test_there_are_fewer_kernels_and_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 16, 16)
    exact = stack()
    counts, gradients = [], []
    for off in ("", "kernel_order"):
        torch._dynamo.reset()
        monkeypatch.setenv("APPROX_FX_DISABLE", off)
        model = approx_fx.convert(copy.deepcopy(exact), bits=4, min_bytes=0, strict=True)
        counts.append(kernels(model, x))
        gradients.append(flat_gradients(model))
    assert counts[0] < counts[1]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


@pytest.mark.cpp
def test_a_pass_that_the_user_has_set_runs_too() -> None:
    torch._dynamo.reset()
    seen: list[int] = []

    def look(nodes: list[object]) -> list[object]:
        seen.append(len(nodes))
        return nodes

    options = {"reorder_for_compute_comm_overlap": True, "reorder_for_compute_comm_overlap_passes": [look]}
    with torch._inductor.config.patch(options):
        step(approx_fx.convert(stack(), bits=4, min_bytes=0, strict=True), torch.randn(8, 3, 16, 16))
    assert len(seen) == 2
