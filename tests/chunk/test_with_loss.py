"""A model and its loss as one module."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import approx_fx
from approx_fx.chunk import region
from approx_fx.errors import ApproxFxError


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region, "LEAST_ELEMENTS", 4096)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(16, 16), nn.Linear(16, 256)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.head(torch.relu(self.body(x)) * scale)


@pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(weight=torch.linspace(1, 2, 256))])
@pytest.mark.parametrize("return_output", [False, True])
def test_one_graph_with_the_loss_in_chunks(loss: Any, return_output: bool) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model, x, y = Scaled(), torch.randn(96, 16), torch.randint(256, (96,))
    exact = copy.deepcopy(model)
    step = approx_fx.with_loss(model, loss, return_output)
    approx_fx.convert(step, compiler="eager", strict=True, check=None, min_bytes=1 << 40, chunk_loss="always")
    result = step(x, y, scale=2.0)
    value = result[0] if return_output else result
    value.backward()
    expected = loss(exact(x, 2.0), y)
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    if return_output:
        torch.testing.assert_close(result[1] + 0, exact(x, 2.0), rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)
    (graph,) = approx_fx.report(step).graphs
    assert graph.losses == ("model.head: in 1 chunk of 96 rows",)
    assert model.state_dict().keys() == exact.state_dict().keys()


def test_targets_by_name() -> None:
    model, x, y = Scaled(), torch.randn(8, 16), torch.randint(256, (8,))
    step = approx_fx.with_loss(model, F.cross_entropy)
    assert torch.equal(step(x, targets=y), F.cross_entropy(model(x), y))


def test_errors() -> None:
    with pytest.raises(ApproxFxError, match=r"with_loss takes an nn\.Module and a loss: function is no nn\.Module\."):
        approx_fx.with_loss(lambda x: x, F.cross_entropy)  # type: ignore[arg-type]
    with pytest.raises(ApproxFxError, match=r"can be called with \(output, targets\), not 3\."):
        approx_fx.with_loss(Scaled(), 3)  # type: ignore[arg-type]
    with pytest.raises(ApproxFxError, match=r"no targets were given: they are the last positional argument"):
        approx_fx.with_loss(Scaled(), F.cross_entropy)()
