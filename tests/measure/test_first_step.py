"""The first step is measured on its data, and what is too far off is stored in a better way before the step is made."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.errors import ApproxFxError
from approx_fx.measure import first_step
from models.gpt import gpt_tiny
from models.resnet import resnet20
from tests.support.hard_nets import KINDS, TABLE, OutlierStream, sparse_images
from tests.support.measured_step import backward, said, trained, worst_cosine
from tools.lib.drawn_nets import network

# Bounds of the table: the worst cosine of a parameter's gradient.
LEAST = {8: 0.99, 4: 0.95}
# exp(-c) * cumsum(v * exp(c)) with decays up to exp(22): terms of one gradient cancel, which at 4 bits costs more.
CANCELLING = {("larger decay", 4): 0.7}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", [*TABLE, *KINDS])
def test_gradients_of_the_first_step(name: str, bits: int) -> None:
    model, exact = trained({**TABLE, **KINDS}[name], bits)
    assert worst_cosine(model, exact) > (CANCELLING.get((name, bits), LEAST[bits]), "")


@pytest.mark.cpp
@pytest.mark.parametrize("name", list(TABLE))
def test_compiled_gradients_of_the_first_step(name: str) -> None:
    model, exact = trained(TABLE[name], 4, compiler="inductor")
    assert worst_cosine(model, exact) > (LEAST[4], "")


@pytest.mark.parametrize("factory", [resnet20, gpt_tiny])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_well_behaved_networks_are_left_as_they_are(factory: Any, bits: int, caplog: pytest.LogCaptureFixture) -> None:
    saved = []
    for check in ("first", None):
        model, inputs, *_ = factory(batch=8)
        approx_fx.convert(model, bits=bits, compiler="eager", strict=True, check=check)
        output = model(*inputs)
        (output[0] if isinstance(output, tuple) else output).sum().backward()
        saved.append(approx_fx.report(model).saved_after)
    assert saved[0] == saved[1]
    assert not said(caplog)


def test_one_sentence_says_what_was_done(caplog: pytest.LogCaptureFixture) -> None:
    model, _ = trained(lambda: (OutlierStream(128, 30), (torch.randn(8, 64, 32),)), 4)
    texts = said(caplog)
    assert len(texts) == 1
    assert (
        texts[0].startswith("approx_fx: on this step's data the code of mul in norms.")
        and "(and 2 like it)" in texts[0]
    )
    assert texts[0].endswith("where 0.10 is usual: it is stored as a group over tokens code of 4 bits.")
    model(torch.randn(8, 64, 32)).sum().backward()
    assert said(caplog) == texts  # and once


def test_the_report_shows_measured_beside_promised() -> None:
    model, _ = trained(sparse_images, 4)
    report = approx_fx.report(model)
    assert all(row.measured is not None and row.measured < 0.3 for row in report.tensors if row.bits > 1)
    failed = [value for value in report.measured if value.before is not None]
    assert failed and all(value.before > 0.3 and value.action for value in failed)  # type: ignore[operator]
    assert all(value.measured < 0.3 for value in failed if value.measured is not None)
    assert approx_fx.Report(report.graphs).to_dict()["tensors"][0]["measured"] == report.tensors[0].measured


def test_random_numbers_and_buffers_are_those_of_an_unmeasured_step() -> None:
    def build() -> tuple[nn.Module, tuple[Tensor]]:
        layers = [nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(16, 4, 3)]
        return nn.Sequential(*layers), ((torch.rand(16, 1, 16, 16) < 0.01).float() * 3,)

    results = []
    for check in ("first", None):
        torch.manual_seed(1)
        model, inputs = build()
        approx_fx.convert(model, bits=4, min_bytes=256, compiler="eager", strict=True, check=check)
        torch.manual_seed(2)
        results.append((model(*inputs), model[1].running_var.clone(), model[1].num_batches_tracked, torch.rand(1)))  # type: ignore[union-attr]
    for measured, plain in zip(*results, strict=True):
        assert torch.equal(measured, plain)


def test_check_none_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_step, "measure", lambda *_: pytest.fail("measured"))
    model, _ = trained(sparse_images, 4, check=None)
    assert all(row.measured is None for row in approx_fx.report(model).tensors)


def test_check_every_third_step(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    steps: list[int] = []
    measure = first_step.measure
    monkeypatch.setattr(first_step, "measure", lambda *args: [steps.append(step), measure(*args)][1])
    torch.manual_seed(0)
    model, _ = sparse_images()
    exact = copy.deepcopy(model)
    approx_fx.convert(model, bits=4, min_bytes=256, compiler="eager", strict=True, check=3)
    for step in range(7):
        dense = torch.randn(16, 1, 32, 32)
        inputs = (dense if step < 3 else dense * (torch.rand(16, 1, 32, 32) < 0.005),)
        backward(model, inputs)
        assert bool(said(caplog)) == (step >= 3)  # values drift: what was right in the first step is not in the fourth
    assert sorted(set(steps)) == [0, 3, 6]
    backward(exact, inputs)
    assert worst_cosine(model, exact) > (LEAST[4], "")


@pytest.mark.parametrize("dynamic", [True, None])
def test_dynamic_sizes(dynamic: bool | None) -> None:
    torch.manual_seed(0)
    model, _ = sparse_images()
    exact = copy.deepcopy(model)
    approx_fx.convert(model, bits=4, min_bytes=256, compiler="eager", strict=True, dynamic=dynamic)
    for batch in (16, 12, 20):
        inputs = ((torch.rand(batch, 1, 32, 32) < 0.005).float() * 3,)
        backward(model, inputs)
        backward(exact, inputs)
        assert worst_cosine(model, exact) > (LEAST[4], "")


def test_under_autocast() -> None:
    torch.manual_seed(0)
    model, inputs = OutlierStream(128, 100), (torch.randn(8, 64, 32),)
    exact = copy.deepcopy(model)
    approx_fx.convert(model, bits=4, min_bytes=256, compiler="eager", strict=True)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [module(*inputs).float().square().mean() for module in (model, exact)]
    for loss in losses:
        loss.backward()
    assert worst_cosine(model, exact) > (LEAST[4], "")


@pytest.mark.cpp
def test_a_warm_start_decides_as_the_cold_one_did(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    reports = []
    with config.patch(fx_graph_cache=True, force_disable_caches=False):
        for start in ("cold", "warm"):
            torch._dynamo.reset()
            model, exact = trained(sparse_images, 4, compiler="inductor")
            assert worst_cosine(model, exact) > (LEAST[4], "")
            assert bool(said(caplog)) == (start == "cold")
            caplog.clear()
            reports.append(approx_fx.report(model))
    assert reports[0].tensors == reports[1].tensors and reports[0].measured == reports[1].measured


def test_a_model_can_be_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a graph was planned on is kept once it was measured, and the first batch least of all."""
    import gc
    import weakref

    model, inputs = resnet20(batch=4)
    approx_fx.convert(model, bits=4, compiler="eager", strict=True)
    model(*inputs).sum().backward()
    batch = weakref.ref(inputs[0])
    del inputs
    gc.collect()
    assert batch() is None


def test_a_failure_to_measure_is_said_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(first_step, "measure", fail)
    model, _ = trained(sparse_images, 4, strict=False)
    assert said(caplog) == ["approx_fx could not measure a graph: RuntimeError: no memory"]
    assert approx_fx.report(model).ratio > 12
    with pytest.raises(RuntimeError, match="no memory"):
        trained(sparse_images, 4)


@pytest.mark.parametrize("wrong", ["frist", 0, -1, 2.5, True])
def test_wrong_values_of_the_option(wrong: Any) -> None:
    with pytest.raises(
        ApproxFxError, match=r"check=.* is not allowed: check is 'first' \(in the first step\), a whole"
    ):
        approx_fx.Config(check=wrong)


class Broken(nn.Module):
    """Two halves of a model with a graph break between them: a step of two graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = OutlierStream(128, 100), OutlierStream(128, 100)
        self.first.last = nn.Linear(128, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        torch._dynamo.graph_break()
        return self.second(x)


def test_every_graph_of_a_step_is_measured(caplog: pytest.LogCaptureFixture) -> None:
    model, exact = trained(lambda: (Broken(), (torch.randn(8, 64, 32),)), 4)
    report = approx_fx.report(model)
    assert len(report.graphs) == 2 and all(graph.values for graph in report.graphs)
    assert {text.split(" in ")[1].split(".")[0] for text in said(caplog)} == {"first", "second"}
    assert worst_cosine(model, exact) > (LEAST[4], "")


def test_scores_of_an_attention_are_measured(caplog: pytest.LogCaptureFixture) -> None:
    """Around a mean of 100, queries and keys are right to 20 %, and the exponential of their product is not."""
    model, x = network(["attention", "root", "residual"], False, 8154, "huge mean")
    model, exact = trained(lambda: (model, (x,)), 4)
    assert any("code of permute in 1" in text and "kept exact" in text for text in said(caplog))
    assert worst_cosine(model, exact) > (LEAST[4], "")


@pytest.mark.parametrize("name", ["sigmoid at -4.6", "sigmoid at -7", "tanh at 3"])
def test_a_shut_gate_is_recomputed_from_its_argument(name: str) -> None:
    """Which costs what the gate's own code costs, and no more."""
    model, _ = trained(KINDS[name], 4)
    assert approx_fx.report(model).ratio > 11
