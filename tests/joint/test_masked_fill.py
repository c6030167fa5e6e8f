"""Values whose masked places hold a number far from all others are not coded: what they are made of is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx

ROWS, WIDTH = 64, 256


class Entropy(nn.Module):
    """The entropy of a choice between what is allowed, as policies with an action mask have it."""

    def __init__(self, far: float, added: bool = False) -> None:
        super().__init__()
        self.scores, self.far, self.added = nn.Linear(64, WIDTH), far, added

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        scores = self.scores(x)
        if self.added:
            log = torch.log_softmax(scores + (1.0 - allowed.float()) * self.far, -1)
        else:
            log = torch.log_softmax(scores.masked_fill(~allowed, self.far), -1)
        return -(log.exp() * log.clamp_min(-1e5)).sum(-1)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 64, generator=generator), torch.rand(ROWS, WIDTH, generator=generator) < 0.5


@pytest.mark.parametrize(
    ("far", "added"), [(-1e9, False), (-1e4, False), (float("-inf"), False), (-1e9, True), (-1e4, True)]
)
def test_gradients_of_a_masked_entropy(far: float, added: bool) -> None:
    """In codes of the filled scores nothing is left of what is allowed: this gradient was 0, or NaN."""
    torch.manual_seed(0)
    exact = Entropy(far, added)
    ours = approx_fx.convert(copy.deepcopy(exact), bits=8, min_bytes=0, compiler="eager", strict=True)
    gradients = []
    for model in (exact, ours):
        model(*inputs()).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.999
    assert {(row.op, row.shape) for row in approx_fx.report(ours).tensors} >= {("addmm", (ROWS, WIDTH))}


class Kept(nn.Module):
    """Scores that are filled, and changed further by `then`, before a product reads them. fill: with what."""

    def __init__(self, fill: float, then: Any) -> None:
        super().__init__()
        self.scores, self.out, self.fill, self.then = nn.Linear(64, WIDTH), nn.Linear(WIDTH, 16), fill, then

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        y: Tensor = self.out(self.then(self.scores(x).masked_fill(~allowed, self.fill)))
        return y


@pytest.mark.parametrize(
    ("fill", "then", "coded"),
    [
        (-1e9, lambda y: y + 1, {"addmm"}),  # far: made again from the scores, and the mask that was given
        (-1e9, torch.sigmoid, {"sigmoid"}),  # near again
        (0.5, lambda y: y + 1, {"add"}),  # not far
    ],
)
def test_only_what_is_far_is_left_alone(fill: float, then: Any, coded: set[str]) -> None:
    report = approx_fx.explain(Kept(fill, then), *inputs(), bits=4, min_bytes=0, strict=True)
    assert {row.op for row in report.tensors if row.shape == (ROWS, WIDTH)} == coded
