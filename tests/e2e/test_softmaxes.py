"""Gradients through softmaxes in all spellings are right whatever the size of the scores, without a measured step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import approx_fx


def written_out(scores: Tensor) -> Tensor:
    exponentials = (scores - scores.amax(-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(-1, keepdim=True)


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda scores: scores.softmax(-1),
    "written out": written_out,
    "masked": lambda scores: (scores + torch.full(scores.shape[1:], -1e4).triu(1)).softmax(-1),
    "softmin": lambda scores: nn.functional.softmin(scores, -1),
    "log softmax": lambda scores: scores.log_softmax(-1).square() / 100,
    "log sum exp": lambda scores: torch.logsumexp(scores, -1, keepdim=True).expand_as(scores),
    "of a log softmax": lambda scores: (scores.log_softmax(-1) / 0.5).softmax(-1),
}


class Scored(nn.Module):
    """Values weighted by a function of scores that are `factor` squared times as large as usual."""

    def __init__(self, weigh: Callable[[Tensor], Tensor], factor: float) -> None:
        super().__init__()
        self.qkv, self.weigh, self.factor = nn.Linear(64, 192), weigh, factor

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.weigh(self.factor * q @ (self.factor * k).transpose(1, 2) / 8) @ v


@pytest.mark.parametrize("factor", [1.0, 12.0])
@pytest.mark.parametrize("name", SPELLINGS)
def test_large_scores(name: str, factor: float) -> None:
    """From codes of scores, with their exact maximum or sum, probabilities came out at up to 30 times their size."""
    torch.manual_seed(0)
    model, x = Scored(SPELLINGS[name], factor), torch.randn(4, 64, 64)
    weight = torch.randn(4, 64, 64)
    (model(x) * weight).sum().backward()
    exact = model.qkv.weight.grad
    assert exact is not None
    model.zero_grad()
    approx_fx.convert(model, bits=4, min_bytes=64, compiler="eager", check=None, strict=True)
    (model(x) * weight).sum().backward()
    coded = model.qkv.weight.grad
    assert coded is not None and approx_fx.report(model).ratio > 3
    assert float(torch.cosine_similarity(coded.flatten(), exact.flatten(), 0)) > 0.96
    assert float(coded.norm() / exact.norm()) == pytest.approx(1, abs=0.05)
