"""torch.utils.checkpoint under the pass: its regions are recomputed, from exact values; the rest is coded."""

from __future__ import annotations

import copy
import logging
import sys
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.bench.target import noise_loss
from tests.support.nets import conv, images


class Body(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.a, self.norm, self.b = conv(16, 16), nn.BatchNorm2d(16, momentum=0.0), conv(16, 16)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.dropout(torch.relu(self.norm(self.a(x)))))


class Net(nn.Module):
    def __init__(self, context: Any = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.norm = conv(3, 16), nn.BatchNorm2d(16, momentum=0.0)
        self.body, self.last, self.context = Body(dropout), conv(16, 8), context

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        options = {"context_fn": self.context} if self.context else {}
        return self.last(torch.relu(checkpoint(self.body, x, use_reentrant=False, **options)))


def step(model: nn.Module, **options: Any) -> tuple[nn.Module, Tensor]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = approx_fx.convert(copy.deepcopy(model), **{"compiler": "eager", "min_bytes": 256, **options})
    noise_loss(model(images())).backward()
    return model, flat_gradients(model)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_a_region_is_recomputed_from_its_exact_input() -> None:
    model = Net()
    ours, found = step(model, bits=4, strict=True)
    _, exact = step(model, bits=None)
    report = approx_fx.report(ours)
    assert {row.reason for row in report.kept} >= {"checkpoint"}
    assert not any("body" in row.module for row in report.tensors)
    assert any(row.module == "body.b" or row.op == "relu" for row in [*report.tensors, *report.kept])
    assert cosine(found, exact) > 0.99
    region = dict(ours.named_parameters())["body.a.weight"].grad
    assert region is not None and region.isfinite().all()


def test_nothing_of_the_region_is_saved() -> None:
    """What is left is the region's input, exact, and what lies outside of it."""
    ours, _ = step(Net(), bits=4, strict=True)
    found = approx_fx.report(ours)
    assert not [row.name for row in (*found.tensors, *found.kept) if "body" in row.module]
    assert found.saved_before > found.saved_after


def test_the_region_is_exact_where_nothing_else_is_coded() -> None:
    model = Net()
    _, exact = step(model, bits=None)
    _, ours = step(model, bits=4, strict=True, min_bytes=10**9)
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-6)


def save_convolutions(_: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    convolution = op == torch.ops.aten.convolution.default
    return CheckpointPolicy.MUST_SAVE if convolution else CheckpointPolicy.PREFER_RECOMPUTE


def test_a_selective_policy_is_honoured() -> None:
    model = Net(partial(create_selective_checkpoint_contexts, save_convolutions))
    ours, found = step(model, bits=4, strict=True)
    _, exact = step(model, bits=None)
    convolutions = [row for row in approx_fx.report(ours).kept if row.op == "convolution"]
    assert any(row.module == "body.a" and row.reason == "checkpoint" for row in convolutions)
    assert cosine(found, exact) > 0.99


@pytest.mark.cpp
@pytest.mark.parametrize("compiler", ["eager", "inductor"])
@pytest.mark.parametrize("options", [{"bits": None}, {"bits": 8}, {"bits": 8, "min_bytes": 10**9}])
def test_dropout_in_a_region_is_drawn_once(
    compiler: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same mask in the recomputation, also where torch's own partition is used: else gradients were wrong."""
    model = Net(dropout=0.5)
    ours, found = step(model, compiler=compiler, **options)
    monkeypatch.setattr(sys.modules[__name__], "checkpoint", lambda region, x, **_: region(x))
    _, exact = step(model, bits=None, compiler=compiler)
    assert cosine(found, exact) > 0.999
    assert "gradient" not in caplog.text
    weight = dict(ours.named_parameters())["body.b.weight"].grad
    assert weight is not None and weight.isfinite().all()


class Attending(nn.Module):
    """Attention in a checkpointed region, between two layers outside of it."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(32, 32), nn.Linear(32, 96), nn.Linear(32, 8)
        self.dropout = dropout

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.inner(x).unflatten(-1, (3, 2, 16)).movedim(2, 0).transpose(2, 3)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x.flatten(1)[:, :2048].reshape(-1, 64, 32)))
        return self.last(torch.tanh(checkpoint(self.attend, x, use_reentrant=False)))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attention_in_a_region(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its results are computed again, or kept where a dropout drew them; the tuple of them is never kept."""
    model = Attending(dropout)
    ours, found = step(model, bits=8, strict=True)
    monkeypatch.setattr(sys.modules[__name__], "checkpoint", lambda region, x, **_: region(x))
    _, exact = step(model, bits=None)
    assert cosine(found, exact) > 0.999
    report = approx_fx.report(ours)
    if not dropout:  # it draws nothing and is computed again, from the region's input alone
        assert ([row.op for row in report.kept], [row.op for row in report.tensors]) == (["tanh"], [])


class Nested(Net):
    """A region that holds another one."""

    def inner(self, x: Tensor) -> Tensor:
        return torch.relu(checkpoint(self.body, x, use_reentrant=False))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.last(checkpoint(self.inner, x, use_reentrant=False))


def test_a_region_in_a_region() -> None:
    """Recomputed from the outer one's input: the inner one's is not kept."""
    ours, found = step(Nested(), bits=4, strict=True)
    _, exact = step(Nested(), bits=None)
    assert cosine(found, exact) > 0.99
    report = approx_fx.report(ours)
    assert not [row.name for row in (*report.tensors, *report.kept) if "body" in row.module]
    assert {row.reason for row in report.kept} >= {"checkpoint"}


def test_no_word_is_lost_about_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "approx_fx"):
        step(Net(), bits=4)
    assert not caplog.records
