"""The gradient of a tied embedding is added into the weight's other gradients, and is the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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


class Broadcast(nn.Module):
    """Scattered rows that are fewer than those they are added to, in a forward that the backward computes again."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.hidden = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        def block(x: Tensor, h: Tensor) -> Tensor:
            places = torch.arange(10)
            rows = torch.zeros(1, 10, 8).index_put((places * 0, places), self.rows(x).sin(), accumulate=True)
            return (self.hidden(h) + rows).sin()

        result: Tensor = checkpoint(block, x, h, use_reentrant=False)
        return result


class Indexed(nn.Module):
    """Many small gradients of rows of a bfloat16 weight beside a large one, in which each would be rounded away."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8, dtype=torch.bfloat16))

    def forward(self, index: Tensor) -> Tensor:
        return self.weight[index].float().sin().sum() + (self.weight * 600.0).float().sum()


@pytest.mark.parametrize("name", ["broadcast", "bfloat16"])
def test_sums_that_stay(name: str) -> None:
    examples: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
        "broadcast": (Broadcast(), (torch.randn(10, 8), torch.randn(4, 10, 8))),
        "bfloat16": (Indexed(), (torch.zeros(400, dtype=torch.int64),)),
    }
    exact, inputs = examples[name]
    model = approx_fx.convert(copy.deepcopy(exact), bits=8, min_bytes=0, compiler="eager", strict=True, check=None)
    for net in (exact, model):
        net(*inputs).square().sum().backward() if name == "broadcast" else net(*inputs).backward()
    for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() < 0.02 * theirs.grad.norm()


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
