"""Losses in chunks where the number of rows varies from step to step are the losses of the whole."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import approx_fx
from approx_fx.chunk.deferred import DeferredLogits
from tests.support.losses import LOSSES, Head, compare_step
from tests.support.measured_step import said

# Rows of the steps; the fourth has a single one for each chunk, for which torch traces another graph.
ROWS = (96, 120, 88, 8, 96)
# Shifted logits are divided by sequences, of which there are four.
CHUNKS = {"shifted logits": "in 4 chunks"}


pytestmark = pytest.mark.usefixtures("small_chunks")


def trained(model: nn.Module, steps: list[tuple[Tensor, ...]], **options: Any) -> str:
    """Compare steps in chunks, in which nothing is coded, with exact ones; return what is said of the loss."""
    exact = copy.deepcopy(model)
    options = {"min_bytes": 1 << 40, "compiler": "eager", "strict": True, "check": None, "dynamic": True, **options}
    approx_fx.convert(model, **options)
    for inputs in steps:
        compare_step(model, exact, inputs)
    (graph,) = approx_fx.report(model).graphs  # of the last step
    (text,) = graph.losses
    return text


def data(rows: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 32), torch.randint(512, (rows,))


@pytest.mark.parametrize("name", LOSSES)
def test_a_number_of_rows_that_varies(name: str) -> None:
    text = trained(Head(LOSSES[name]), [data(rows) for rows in ROWS])
    assert text == f"head: {CHUNKS.get(name, 'in 8 chunks')}"


def test_fewer_rows_than_chunks() -> None:
    """They are computed by a second graph, which is not used where there are many."""
    assert trained(Head(LOSSES["mean"]), [data(rows) for rows in (4, 2, 96, 9, 120)]) == "head: in 8 chunks"


class Tied(nn.Module):
    """A model of words whose logits are by its embedding; shifted: each word is predicted from the one before."""

    def __init__(self, shifted: bool) -> None:
        super().__init__()
        self.words, self.body, self.shifted = nn.Embedding(512, 32), nn.Linear(32, 32), shifted

    def forward(self, tokens: Tensor) -> Tensor:
        logits = F.linear(torch.tanh(self.body(self.words(tokens))), self.words.weight)
        if self.shifted:
            logits, tokens = logits[:, :-1], tokens[:, 1:]
        return F.cross_entropy(logits.reshape(-1, logits.size(-1)), tokens.reshape(-1))


COMPILERS = ["eager", pytest.param("inductor", marks=pytest.mark.cpp)]


def words(*shapes: tuple[int, int]) -> list[tuple[Tensor, ...]]:
    return [(torch.randint(512, shape),) for shape in shapes]


@pytest.mark.parametrize("compiler", COMPILERS)
def test_batch_and_length_vary(compiler: str) -> None:
    steps = words((8, 24), (6, 31), (9, 8), (3, 50))
    assert trained(Tied(shifted=False), steps, compiler=compiler).startswith("a product: in ")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_length_of_shifted_logits_varies(compiler: str) -> None:
    """Dynamo compiles for a second length with a symbol; the number of sequences is fixed."""
    steps = words((8, 24), (8, 31), (8, 9), (8, 50))
    assert trained(Tied(shifted=True), steps, compiler=compiler, dynamic=None) == "a product: in 8 chunks"


def test_a_varying_number_of_sequences_is_left_whole() -> None:
    steps = words((8, 24), (6, 31), (3, 50))
    text = trained(Tied(shifted=True), steps)
    assert text == "a product: not in chunks: slice reads it otherwise than row by row"


@pytest.mark.cpp
@pytest.mark.parametrize("name", ["ignored labels", "z-loss", "shifted logits"])
def test_compiled(name: str) -> None:
    trained(Head(LOSSES[name], bias=True), [data(rows) for rows in ROWS], compiler="inductor")


def test_the_first_step_is_measured_and_the_rest_is_coded(caplog: pytest.LogCaptureFixture) -> None:
    model = Tied(shifted=False)
    exact = copy.deepcopy(model)
    approx_fx.convert(model, bits=4, min_bytes=256, compiler="eager", strict=True, dynamic=True)
    for length in (24, 40):
        tokens = torch.randint(512, (8, length))
        for item in (model, exact):
            item.zero_grad()
            item(tokens).backward()
        for ours, right in zip(model.parameters(), exact.parameters(), strict=True):
            assert F.cosine_similarity(ours.grad.flatten(), right.grad.flatten(), dim=0) > 0.98  # type: ignore[union-attr]
    assert not said(caplog)
    assert [row.bits for row in approx_fx.report(model).tensors] == [4]


def test_logits_that_are_returned_too_are_not_kept() -> None:
    class WithLogits(Tied):
        def forward(self, tokens: Tensor) -> Any:
            logits = F.linear(torch.tanh(self.body(self.words(tokens))), self.words.weight)
            return F.cross_entropy(logits.flatten(0, 1), tokens.flatten()), logits

    model = WithLogits(shifted=False)
    exact = copy.deepcopy(model)
    approx_fx.convert(model, min_bytes=1 << 40, compiler="eager", strict=True, check=None, dynamic=True)
    for length in (24, 40):
        tokens = torch.randint(512, (8, length))
        loss, logits = model(tokens)
        expected, right = exact(tokens)
        assert isinstance(logits, DeferredLogits)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(logits + 0, right)
    assert approx_fx.report(model).graphs[0].losses == ("a product: in 12 chunks",)
