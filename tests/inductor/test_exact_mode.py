"""Exact means plain: what encodes nothing is compiled to the code that torch.compile writes, text for text."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import approx_fx
from approx_fx import backend
from approx_fx.peak.dry_run import generated_code
from models.gpt import GPT
from tests.support.nets import Residual, images


def _gpt() -> tuple[nn.Module, torch.Tensor]:
    return GPT(1, 32, 2, 64, 16), torch.randint(0, 64, (2, 16))


def _cnn() -> tuple[nn.Module, torch.Tensor]:
    return Residual(), images()


NETS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {"cnn": _cnn, "transformer": _gpt}


def code(build: Callable[[], tuple[nn.Module, torch.Tensor]], compile_: Callable[[nn.Module], Any], train: bool) -> Any:
    """What Inductor writes of one step of training, or of inference; the model is built anew."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x = build()
    with torch._inductor.config.patch(force_disable_caches=True), generated_code() as sources:
        run = compile_(model.train(train))
        with torch.set_grad_enabled(train):
            output = run(x)
        if train:
            output.float().square().mean().backward()
    return [source[source.index("import") :] for source in sources]


@pytest.mark.cpp
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("train", [True, False], ids=["training", "inference"])
def test_the_exact_mode_is_torch_compiles(name: str, train: bool) -> None:
    ours = code(NETS[name], lambda model: torch.compile(model, backend="approx_fx", options={"bits": None}), train)
    assert ours == code(NETS[name], torch.compile, train)
    assert len(ours) == 1 + train


@pytest.mark.cpp
@pytest.mark.parametrize("name", NETS)
def test_inference_with_bits_is_torch_compiles(name: str) -> None:
    ours = code(NETS[name], lambda model: torch.compile(model, backend="approx_fx", options={"bits": 4}), False)
    assert ours == code(NETS[name], torch.compile, False)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_a_graph_that_falls_back_is_torch_compiles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("a fault of the pass")

    monkeypatch.setattr(backend, "partition", fails)
    ours = code(NETS[name], lambda model: torch.compile(model, backend="approx_fx", options={"bits": 4}), True)
    assert ours == code(NETS[name], torch.compile, True)


@pytest.mark.cpp
def test_what_is_coded_is_another() -> None:
    """The comparison sees a difference where there is one."""
    assert code(_cnn, approx_fx.convert, True) != code(_cnn, torch.compile, True)


@pytest.mark.cpp
def test_the_exact_mode_reports_what_torch_saves() -> None:
    torch._dynamo.reset()
    model, x = _cnn()
    told = approx_fx.explain(copy.deepcopy(model), x, bits=None)
    approx_fx.convert(model, bits=None)
    model(x).sum().backward()
    assert approx_fx.report(model).saved_before == approx_fx.report(model).saved_after == told.saved_before > 0
