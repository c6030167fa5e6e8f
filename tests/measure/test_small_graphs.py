"""A small graph's gradients are compared with the exact ones: more bits, or exact, where they are off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.measure import first_step, gradients
from approx_fx.measure.gradients import Gradient, Gradients
from approx_fx.measure.sentences import sentence_of_small_gradients
from tests.support.hard_nets import OutlierStream
from tests.support.measured_step import backward, said, trained

RIGHT = Gradients(0.99, [Gradient("0", 1.0, 0.99)])
OFF = Gradients(0.94, [Gradient("0", 1.0, 0.94), Gradient("body", 0.5, 0.6)])
SMALL_IS_OFF = Gradients(0.99, [Gradient("0", 1.0, 0.99), Gradient("body", 1e-4, 0.5)])
FAIR = Gradients(0.96, [Gradient("0", 1.0, 0.96)])
BETTER = Gradients(0.97, [Gradient("0", 1.0, 0.97)])
TEXT = (
    "with codes, its gradient has a cosine of 0.94 with the exact one on this step's data, and that of a parameter of "
    "body one of 0.60"
)


def trained_with(monkeypatch: pytest.MonkeyPatch, results: list[Gradients], bits: int) -> tuple[nn.Module, nn.Module]:
    """A trained model and its exact twin, the comparisons of gradients answered by `results` in turn."""
    compare, answers = first_step.compare_gradients, iter(results)

    def answer(*args: Any) -> Gradients:
        measured = compare(*args)
        assert measured is not None and measured.whole > 0.98 and len(measured.each) > 1  # as it really is
        return next(answers)

    monkeypatch.setattr(first_step, "compare_gradients", answer)
    return trained(lambda: (OutlierStream(128, 30), (torch.randn(8, 64, 32),)), bits)


@pytest.mark.parametrize(("bits", "results"), [(4, 4 * [OFF]), (6, 2 * [OFF]), (8, [OFF])])
def test_a_small_graph_whose_gradients_are_off_trains_exactly(
    bits: int, results: list[Gradients], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, exact = trained_with(monkeypatch, results, bits)
    report = approx_fx.report(model)
    assert report.ratio == 1 and len(report.graphs) == 1
    assert report.graphs[0].failed == TEXT
    assert said(caplog)[-1] == f"approx_fx leaves a graph exact, it trains as with torch.compile: {TEXT}"
    for ours, right in zip(model.parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None and right.grad is not None
        assert torch.allclose(ours.grad, right.grad, rtol=1e-3, atol=1e-4 * float(right.grad.abs().max()))


def test_a_gradient_of_the_wrong_size_is_off() -> None:
    """A cosine does not see the size: that of a single number is 1 or -1."""
    twice = Gradient("scale", 0.5, 1.0, 2.0)
    assert twice.agreement == pytest.approx(0.625) and Gradient("scale", 0.5, 1.0, 0.5).agreement == twice.agreement
    assert Gradient("scale", 0.5, 0.97, 1.2).agreement == 0.97
    assert Gradient("scale", 0.5, 1.0, 0.0).agreement == 0
    assert Gradients(0.99, [Gradient("0", 1.0, 0.99), twice]).are_off(4)
    of_size = sentence_of_small_gradients([Gradient("scale", 1e-3, 1.0, 119.5), Gradient("0", 1e-3, 0.9)])
    assert "the gradient of a parameter of scale, 1e-03 times as large" in of_size
    assert of_size.endswith("a cosine of 1.00 with the exact one and 1.2e+02 times its size (one of 2 that are off)")


def test_more_bits_come_before_exact(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    model, _ = trained_with(monkeypatch, [OFF, RIGHT], 4)
    assert f"approx_fx stores a graph in 5 bits: {TEXT}" in said(caplog)
    report = approx_fx.report(model)
    assert report.tensors and {row.bits for row in report.tensors} == {5}
    assert not report.graphs[0].failed


@pytest.mark.parametrize(
    ("results", "bits"), [([FAIR, FAIR, RIGHT], 6), ([FAIR, FAIR, FAIR, BETTER], 8), ([FAIR] * 4, 4)]
)
def test_fair_gradients_get_the_bits_that_help(
    results: list[Gradients], bits: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All gradients between what they must be and what is good: more bits until they are good, the widest if that is
    better, and no more where nothing helps; never exact."""
    model, _ = trained_with(monkeypatch, results, 4)
    report = approx_fx.report(model)
    assert not report.graphs[0].failed
    assert min(row.bits for row in report.tensors) == bits
    assert any("stores a graph in" in text for text in said(caplog)) == (bits > 4)


def test_a_small_gradient_that_is_off_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, _ = trained_with(monkeypatch, [SMALL_IS_OFF], 4)
    text = (
        "approx_fx: on this step's data the gradient of a parameter of body, 1e-04 times as large as the largest, has "
        "a cosine of 0.50 with the exact one"
    )
    assert text in said(caplog)
    assert 4 in {row.bits for row in approx_fx.report(model).tensors}


class Attend(nn.Module):
    """An attention over scores times a temperature. narrow: its products are in bfloat16."""

    def __init__(self, narrow: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))
        self.narrow = narrow

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.narrow):
            return torch.softmax(self.q(x) @ self.k(x).transpose(-1, -2) * self.temperature(), -1) @ self.v(x)

    def temperature(self) -> Tensor | float:
        return 1.0


class AttendAtTemperature(Attend):
    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(0.5))

    def temperature(self) -> Tensor:
        return self.log_temperature.exp()


def comparisons(model: nn.Module, bits: int, incoming: list[int] | None = None) -> Gradients:
    """The first comparison of a model's gradients. incoming: gets the number of each random incoming gradient."""
    compared: list[Gradients | None] = []
    with pytest.MonkeyPatch.context() as patch:
        compare, tangents = first_step.compare_gradients, gradients._tangents
        patch.setattr(first_step, "compare_gradients", lambda *args: [compared.append(compare(*args)), compared[-1]][1])
        if incoming is not None:
            patch.setattr(gradients, "_tangents", lambda *args: [incoming.append(args[-1]), tangents(*args)][1])
        torch.manual_seed(0)
        approx_fx.convert(model, bits=bits, min_bytes=256, compiler="eager", strict=True)
        backward(model, (torch.randn(8, 64, 32),))
    assert compared[0] is not None
    return compared[0]


@pytest.mark.parametrize("narrow", [False, True])
def test_rounding_noise_is_no_gradient(narrow: bool) -> None:
    """The bias of keys: softmax does not depend on it, so that its gradient is what rounding leaves."""
    compared = comparisons(Attend(narrow), 8)
    assert [gradient.module for gradient in compared.each] == ["q", "q", "k", "v", "v"]


def test_the_gradient_of_one_number_is_compared_for_several_incoming_ones() -> None:
    """For one of them it may be close to 0 by chance, or right by chance."""
    incoming: list[int] = []
    compared = comparisons(AttendAtTemperature(), 8, incoming)
    assert len(compared.each) == 6 and set(incoming) == set(range(gradients.DRAWS))
    incoming.clear()
    comparisons(Attend(), 8, incoming)
    assert set(incoming) == {0}


class NarrowProduct(nn.Module):
    """Layers around a product with a matrix of float8, and a dropout."""

    matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.dropout, self.last = nn.Linear(32, 32), nn.Dropout(0.5), nn.Linear(32, 8)
        self.register_buffer("matrix", torch.randn(32, 32).to(torch.float8_e4m3fn))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.dropout(torch.tanh(self.first(x)) @ self.matrix.to(x.dtype)))


def test_gradients_are_compared_with_dropout_and_beside_float8() -> None:
    """The same elements are dropped in each run: else all gradients would seem to be rounding noise."""
    assert [gradient.module for gradient in comparisons(NarrowProduct(), 8).each] == ["first", "first", "last", "last"]


class Transposed(nn.Module):
    """A graph whose output is a transposed view, whose gradient is viewed as rows, and behind a break a second one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.tanh(self.first(x.flatten(0, 1))).view(x.shape)
        x = rows.transpose(0, 1)
        torch._dynamo.graph_break()
        return self.last(x)


def test_an_output_may_have_any_strides(caplog: pytest.LogCaptureFixture) -> None:
    """An incoming gradient has the strides that the backward was traced with: else its views cannot be run."""
    model, _ = trained(lambda: (Transposed(), (torch.randn(16, 32, 64),)), 4)
    assert len(approx_fx.report(model).graphs) == 2
    assert not said(caplog)
