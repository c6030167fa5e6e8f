"""`approx_fx.check`: a table of what was measured and the cosine of each gradient, without a trace in the model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.errors import ApproxFxError
from tests.support.hard_nets import OutlierStream, sparse_images


class Masked(nn.Module):
    """A model with a keyword argument of its own, and one that is called as an option is."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 8))

    def forward(self, x: Tensor, *, scale: float = 1.0, seed: Tensor | None = None) -> Tensor:
        return self.layers(x) * scale + (0 if seed is None else seed)


def test_the_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model, inputs = sparse_images()
    before = copy.deepcopy(model.state_dict())
    model(*inputs).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    state = torch.get_rng_state()
    before = copy.deepcopy(model.state_dict())
    result = approx_fx.check(model, *inputs, min_bytes=256)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))  # type: ignore[arg-type]
    assert result.cosine > 0.99 and set(result.cosines) == {name for name, _ in model.named_parameters()}
    assert any(value.action for value in result.values)
    assert not approx_fx.report(model).graphs


def test_what_it_prints(tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = approx_fx.check(OutlierStream(128, 100), torch.randn(8, 64, 32), min_bytes=256)
    text = str(result)
    assert "group over tokens" in text and "stored as a group over tokens code of 4 bits" in text
    assert f"gradient cosine {result.cosine:.4f} with the exact gradient; lowest of a parameter: " in text
    data = json.loads(result.to_json())
    assert data["gradient"]["cosine"] == result.cosine and len(data["tensors"]) == len(result.values)
    assert result.save_plot(tmp_path / "check.svg").read_text().startswith("<?xml")


def test_arguments_of_the_model_and_options_are_told_apart() -> None:
    x = torch.randn(64, 32)
    arguments = {"loss": lambda out: out.square().sum(), "scale": 2.0, "seed": torch.ones(8)}
    doubled = approx_fx.check(Masked(), x, **arguments, options={"bits": 8})
    assert doubled.cosine > 0.999
    with pytest.raises(ApproxFxError, match=(
        r"seed= is an option and also an argument of Masked\.forward\. For the option, give options=\{'seed': \.\.\.\}"
        r"; for the argument, give options=\{\} beside it\."
    )):  # fmt: skip
        approx_fx.check(Masked(), x, **arguments)
    with pytest.raises(ApproxFxError, match=r"'scal' is neither an option nor an argument of Masked\.forward\. Did"):
        approx_fx.check(Masked(), x, scal=2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"check": None}, "check=None is not allowed here"), ({"bits": 9}, "bits=9 is not allowed")],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ApproxFxError, match=message):
        approx_fx.check(Masked(), torch.randn(64, 32), **options)


def test_a_model_without_trainable_parameters() -> None:
    with pytest.raises(ApproxFxError, match="Masked has no trainable parameter"):
        approx_fx.check(Masked().requires_grad_(False), torch.randn(64, 32))
