"""A step whose peak would be above torch.compile's holds less, by other kernels, or trains exactly and says so."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx import backend
from approx_fx.bench.code_peak import code_peak
from approx_fx.bench.live_bytes import peak_bytes

ROWS = 8192


class Net(nn.Module):
    """GELU and layer norm behind each of some linear layers; returns the loss, or the logits if `target` is None."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        widths = [64, *[128] * depth]
        layers = [
            layer
            for inputs, outputs in itertools.pairwise(widths)
            for layer in (nn.Linear(inputs, outputs), nn.GELU(), nn.LayerNorm(outputs))
        ]
        self.net = nn.Sequential(*layers, nn.Linear(128, 10))

    def forward(self, x: Tensor, target: Tensor | None) -> Tensor:
        logits: Tensor = self.net(x)
        return logits if target is None else nn.functional.cross_entropy(logits, target)


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 64, generator=generator), torch.randint(10, (ROWS,), generator=generator)


def step_of(model: nn.Module) -> Callable[[], None]:
    inputs = data()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(*inputs).backward()

    return step


def measured_peak(model: nn.Module) -> int:
    step = step_of(model)
    step()
    step()
    model.zero_grad(set_to_none=True)
    return peak_bytes(step)


@pytest.fixture
def no_caches() -> Iterator[None]:
    with torch._inductor.config.patch(force_disable_caches=True):
        yield


@pytest.mark.usefixtures("no_caches")
def test_kernels_hold_less_where_the_peak_would_be_larger() -> None:
    exact, model = Net(2), approx_fx.convert(Net(2), bits=4)
    exact.compile()
    before, after = measured_peak(exact), measured_peak(model)
    assert after < 0.85 * before  # it was 1.25 times as large
    assert approx_fx.report(model).ratio > 5
    predicted = code_peak(Net(2), *data(), options={"bits": 4})
    assert predicted["before"] == pytest.approx(before, rel=0.01)
    assert predicted["after"] == pytest.approx(after, rel=0.01)


@pytest.mark.usefixtures("no_caches")
def test_a_step_that_cannot_hold_less_trains_exactly(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    exact = Net(1)
    model = Net(1)
    model.load_state_dict(exact.state_dict())
    approx_fx.convert(model, bits=4)
    exact.compile()
    with caplog.at_level(logging.WARNING, "approx_fx"):
        step_of(model)()
        step_of(model)()
    step_of(exact)()
    reason = "its step would hold 9.0 MiB at its peak, torch.compile's holds 8.5 MiB"
    assert [record.getMessage() for record in caplog.records if record.name.startswith("approx_fx")] == [
        f"approx_fx leaves a graph exact, it trains as with torch.compile: {reason}"
    ]
    assert f"one graph trains exactly: {reason}" in str(approx_fx.report(model))
    for mine, other in zip(model.parameters(), exact.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None and torch.equal(mine.grad, other.grad)
    assert code_peak(Net(1), *data(), options={"bits": 4}) == {"before": 8880140, "after": 8880140}


@pytest.mark.usefixtures("no_caches")
def test_a_part_of_a_step_keeps_its_codes() -> None:
    """Between its forward and its backward, while others run, it holds less in any case."""
    model = approx_fx.convert(Net(1), bits=4)
    model(data()[0], None).sum().backward()
    assert approx_fx.report(model).ratio > 5


def test_a_later_process_knows_without_looking(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was found is stored beside Inductor's cache, and said again."""
    step_of(approx_fx.convert(Net(1), bits=4))()
    torch.compiler.reset()

    def generate(*_: Any, **__: Any) -> None:
        raise AssertionError("code was generated once more")

    monkeypatch.setattr(backend, "generate_code", generate)
    model = approx_fx.convert(Net(1), bits=4)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "approx_fx"):
        step_of(model)()
        step_of(model)()
    assert [record.getMessage()[:32] for record in caplog.records] == ["approx_fx leaves a graph exact, "]
    assert not approx_fx.report(model).graphs[0].tensors
    assert "torch.compile's holds 8.5 MiB" in str(approx_fx.report(model))
