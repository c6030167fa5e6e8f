"""Gradients are compared by their sketches, so that comparing them needs little memory beside a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.live_bytes import measure
from approx_fx.measure import first_step, gradients
from approx_fx.measure.sketch import BUCKETS, sketched

WIDTH, DEPTH = 1024, 6


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_a_small_tensor_is_its_own_sketch() -> None:
    value = torch.randn(256, 256)
    assert sketched(value) is value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1000, 1000), (BUCKETS + 1,), (3, 2**20 + 7)])
def test_it_keeps_norms_and_is_linear(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    value, error = torch.randn(shape, dtype=dtype), 0.2 * torch.randn(shape, dtype=dtype)
    exact = sketched(value)
    assert exact.shape == (BUCKETS,) and exact.dtype == torch.float32
    # One standard deviation of a squared norm is sqrt(2 / BUCKETS) = 0.006.
    assert float(exact.square().sum() / value.float().square().sum()) == pytest.approx(1, abs=0.03)
    turned = 1 - cosine(exact, sketched(value.double() + error.double()).float())
    assert turned == pytest.approx(1 - 1 / 1.04**0.5, rel=0.05)
    parts = sketched(value.double()), sketched(error.double())
    assert torch.allclose(sketched(value.double() + error.double()), parts[0] + parts[1])


def test_a_few_large_rows_are_seen() -> None:
    """A sample of the numbers would miss them: two words' rows in the gradient of a table of 20,000."""
    exact = torch.zeros(20_000, 64)
    exact[17], exact[4242] = torch.randn(64), torch.randn(64)
    wrong = exact.clone()
    wrong[4242] *= -1
    assert cosine(sketched(exact), sketched(wrong)) == pytest.approx(cosine(exact.ravel(), wrong.ravel()), abs=0.02)


def test_rows_that_are_all_the_same() -> None:
    """Products of different rows, which are as large as the norm, cancel by their signs."""
    row = torch.randn(1, BUCKETS // 4)
    exact, wrong = row.expand(400, -1).clone(), row.expand(400, -1).clone()
    wrong[::2] *= -1
    assert cosine(sketched(exact), sketched(wrong)) == pytest.approx(0, abs=0.03)
    assert float(sketched(exact).norm() / exact.norm()) == pytest.approx(1, abs=0.03)


class Wide(nn.Module):
    """Large weights and small activations; batch norm counts its batches in a buffer of one number."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(DEPTH):
            layers += [nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


def test_comparing_the_gradients_of_large_weights_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x = Wide(), torch.randn(16, WIDTH)
    peaks: list[int] = []
    compare, draws = first_step.compare_gradients, gradients._draws

    def measured(*args: Any) -> Any:
        answers: list[Any] = []
        peaks.append(measure(lambda: answers.append(compare(*args))).peak)
        return answers[0]

    def one_draw(*args: Any) -> int:
        count = draws(*args)
        assert count == 1  # the counts of batches have no gradient, for which more than one would be needed
        return count

    monkeypatch.setattr(first_step, "compare_gradients", measured)
    monkeypatch.setattr(gradients, "_draws", one_draw)
    approx_fx.convert(model, bits=4, compiler="eager")
    model(x).square().mean().backward()
    gradient_bytes = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert peaks and max(peaks) < gradient_bytes
    assert not approx_fx.report(model).graphs[0].failed
