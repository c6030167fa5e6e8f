"""The gradient of a tied embedding is added into the weight's other gradients, and is the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import approx_fx


class Tied(nn.Module):
    """One weight that is the embedding of two sequences, and the head. padding: a word without gradient."""

    def __init__(self, padding: int | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, 64, padding, dtype=dtype)
        self.linear = nn.Linear(64, 64, dtype=dtype)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        hidden = torch.relu(self.linear(self.embedding(one))) + torch.tanh(self.linear(self.embedding(two)))
        return hidden @ self.embedding.weight.T


def tokens() -> tuple[Tensor, Tensor]:
    return torch.randint(256, (64,)), torch.randint(256, (64,))


@pytest.mark.parametrize("compiler", ["eager", pytest.param("inductor", marks=pytest.mark.cpp)])
@pytest.mark.parametrize(("padding", "dtype"), [(None, torch.float32), (3, torch.float32), (3, torch.bfloat16)])
def test_gradients(padding: int | None, dtype: torch.dtype, compiler: str) -> None:
    exact = Tied(padding, dtype)
    model = approx_fx.convert(copy.deepcopy(exact), bits=8, min_bytes=0, compiler=compiler, strict=True)
    inputs = tokens()
    for net in (exact, model):
        net(*inputs).float().sigmoid().square().sum().backward()
    expected, gradient = exact.embedding.weight.grad, model.embedding.weight.grad
    assert expected is not None and gradient is not None
    for rows in (slice(None), 3):  # of the padded word, the head's gradient is left
        assert (gradient[rows] - expected[rows]).norm() < 0.02 * expected[rows].norm()
