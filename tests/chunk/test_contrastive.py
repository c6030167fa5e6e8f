"""Contrastive losses, of the products of all pairs of a batch, in chunks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import approx_fx
from approx_fx.bench.live_bytes import peak_bytes
from approx_fx.chunk.flops import flops
from tests.support.losses import compare_step

PAIRS = 96  # in chunks of 16
Similarities = Callable[[Tensor, Tensor, Tensor], Tensor]


def both(by_image: Tensor, by_text: Tensor) -> Tensor:
    labels = torch.arange(len(by_image))
    return (F.cross_entropy(by_image, labels) + F.cross_entropy(by_text, labels)) / 2


def of_the_transpose(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """As transformers' CLIP computes it."""
    by_text = b @ a.t() * t.exp()
    return both(by_text.t(), by_text)


def scaled_first(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """As OpenAI's CLIP computes it."""
    by_image = t.exp() * a @ b.t()
    return both(by_image, by_image.t())


def of_two_products(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    return both(t.exp() * a @ b.T, t.exp() * b @ a.T)


def of_rows(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(a @ b.T / 0.1 * t, torch.arange(len(a)))


def of_all_others(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """As SimCLR computes it."""
    both_views, labels = torch.cat([a, b]) * t, torch.arange(len(a))
    itself = torch.eye(2 * len(a), dtype=torch.bool)
    others = (both_views @ both_views.T / 0.07).masked_fill(itself, -1e9)
    return F.cross_entropy(others, torch.cat([labels + len(a), labels]))


def of_each_pair(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """As SigLIP computes it."""
    return -F.logsigmoid((2 * torch.eye(len(a)) - 1) * (a @ b.T * t.exp() - 10)).sum() / len(a)


def symmetric(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The sum with the transpose, of which neither rows nor columns are by themselves."""
    pairs = a @ b.T * t
    return F.cross_entropy(pairs + pairs.T, torch.arange(len(a)))


def of_its_gradient(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Rows, columns, and the product itself, whose gradient is not read as a sum of two."""
    pairs = a @ b.T * t
    return both(pairs, pairs.T) + (pairs * pairs.T).mean()


class Towers(nn.Module):
    """Two linear maps of pairs of inputs, normalised, and a loss of all products between them."""

    def __init__(self, loss: Similarities, width: int = 8) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(32, width), nn.Linear(32, width)
        self.temperature, self.loss = nn.Parameter(torch.tensor(1.5)), loss

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        a, b = F.normalize(self.image(image), dim=-1), F.normalize(self.text(text), dim=-1)
        return self.loss(a, b, self.temperature)


def trained(loss: Similarities, compiler: str = "eager") -> tuple[str, ...]:
    """Compare a step in which nothing is coded with the exact one; return what is said of the loss."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Towers(loss)
    exact = copy.deepcopy(model)
    approx_fx.convert(model, min_bytes=1 << 40, compiler=compiler, chunk_loss="always", strict=True, check=None)
    compare_step(model, exact, (torch.randn(PAIRS, 32), torch.randn(PAIRS, 32)))
    (graph,) = approx_fx.report(model).graphs
    return graph.losses


TWICE = ("a product: in 6 chunks of 16 rows",) * 2


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("compiler", ["eager", pytest.param("inductor", marks=pytest.mark.cpp)])
@pytest.mark.parametrize("loss", [of_the_transpose, scaled_first])
def test_rows_and_columns_of_one_product(loss: Similarities, compiler: str) -> None:
    assert trained(loss, compiler) == TWICE


@pytest.mark.usefixtures("small_chunks")
def test_losses_of_rows() -> None:
    assert trained(of_two_products) == TWICE
    assert trained(of_rows) == trained(of_each_pair) == TWICE[:1]
    assert trained(of_all_others) == ("a product: in 12 chunks of 16 rows",)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("loss", [symmetric, of_its_gradient])
def test_what_cannot_be_separated_is_left_whole(loss: Similarities) -> None:
    trained(loss)
    explained = approx_fx.explain(Towers(loss), *(torch.randn(PAIRS, 32) for _ in range(2)), options={"bits": 4})
    (text,) = explained.graphs[0].losses
    assert text.startswith("a product: not in chunks: ")


@pytest.mark.usefixtures("small_chunks")
def test_a_transpose_that_takes_many_more_operations_is_left_whole() -> None:
    """96 x 8 x 96 products, thrice, beside two layers of 32 x 8, of which the inputs need no gradient."""
    inputs = torch.randn(PAIRS, 32), torch.randn(PAIRS, 32)
    (text,) = approx_fx.explain(Towers(scaled_first), *inputs, options={"bits": 4}).graphs[0].losses
    assert text == (
        "a product: not in chunks: with its transpose computed by itself the step would take 69% more FLOPs, more than "
        "3%"
    )


def test_operations_of_products_are_counted() -> None:
    graph = torch.fx.Graph()
    with FakeTensorMode():
        a, b = (graph.placeholder(name) for name in "ab")
        a.meta["val"], b.meta["val"] = torch.empty(4, 8), torch.empty(8, 16)
        for target, args in ((torch.ops.aten.mm.default, (a, b)), (torch.ops.aten.relu.default, (a,))):
            graph.call_function(target, args).meta["val"] = torch.empty(4, 16)
    assert flops(graph) == 2 * 4 * 8 * 16


@pytest.mark.cpp
def test_no_value_of_the_products_size_exists() -> None:
    """4,096 pairs: a matrix of all products has 64 MiB."""
    inputs = torch.randn(4096, 32), torch.randn(4096, 32)

    def peak(model: nn.Module) -> int:
        def step() -> None:
            model.zero_grad(set_to_none=True)
            model(*inputs).backward()

        step()
        return peak_bytes(step)

    torch.manual_seed(0)
    model = Towers(of_the_transpose, 64)
    exact = copy.deepcopy(model)
    exact.compile()
    assert peak(approx_fx.convert(model, strict=True, chunk_loss="always")) < 2**25
    assert peak(exact) > 2**27
