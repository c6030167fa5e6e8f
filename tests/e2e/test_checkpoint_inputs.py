"""Checkpointed regions that are recomputed from codes of their inputs, `checkpoint_inputs="coded"`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import approx_fx
from approx_fx import backend
from approx_fx.bench.compare import flat_gradients
from approx_fx.joint.op_table import ATTENTION, name_of
from approx_fx.report.data import Report

WIDTH, TOKENS = 64, 64
Function = Callable[[Tensor], Tensor]


class Attention(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.qkv, self.out, self.dropout = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), dropout

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, WIDTH // 4)).movedim(2, 0).transpose(2, 3)
        return self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, is_causal=True)


class WrittenOut(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        future = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
        return (q @ k.transpose(-2, -1) / 4).masked_fill(future, -torch.inf).softmax(-1) @ v


class Block(nn.Module):
    """A residual block of attention and two layers with `function` between them."""

    def __init__(self, function: Function, attention: nn.Module) -> None:
        super().__init__()
        self.before, self.attention, self.between = nn.LayerNorm(WIDTH), attention, nn.RMSNorm(WIDTH)
        self.up, self.down, self.function = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH), function

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        return x + self.down(self.function(self.up(self.between(x))))


class Stack(nn.Module):
    """Three checkpointed blocks. loud: two features of their inputs are so many times as large."""

    def __init__(self, function: Function = F.silu, attention: Callable[[], nn.Module] = Attention) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block(function, attention()) for _ in range(3))
        self.last, self.loud = nn.Linear(WIDTH, 16), 1.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) * torch.where(torch.arange(WIDTH) < 2, self.loud, 1.0)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.last(x)


def trained(
    model: nn.Module, bits: Any, inputs: str = "coded", compiler: str = "eager", exact: Sequence[str] = ()
) -> tuple[Report, Tensor]:
    """The report and the gradient of one step of a copy of the model, with the same data and random numbers."""
    torch._dynamo.reset()
    torch.manual_seed(1)
    model, x = copy.deepcopy(model), torch.randn(8, TOKENS, WIDTH)
    options = {"bits": bits, "exact": exact, "compiler": compiler, "checkpoint_inputs": inputs}
    approx_fx.convert(model, min_bytes=256, strict=True, **options)
    (model(x) * torch.randn(8, TOKENS, 16)).sum().backward()
    return approx_fx.report(model), flat_gradients(model)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


CONTINUOUS: list[tuple[Function, Callable[[], nn.Module]]] = [
    (F.silu, Attention),
    (F.gelu, WrittenOut),
    (torch.relu, nn.Identity),
    (lambda x: F.dropout(torch.tanh(x), 0.3), lambda: Attention(0.3)),
    (lambda x: F.normalize(x, dim=-1), nn.Identity),
    (lambda x: torch.where(x > 0.3, 3 * x, F.leaky_relu(x)), nn.Identity),
]


@pytest.mark.parametrize(("function", "attention"), CONTINUOUS)
def test_a_continuous_region(function: Function, attention: Callable[[], nn.Module]) -> None:
    """In 4 bits: an eighth of the bytes, and masks, and a gradient that is close to the exact one."""
    torch.manual_seed(0)
    model = Stack(function, attention)
    report, gradient = trained(model, 4)
    exact_report, exact = trained(model, 4, "exact")
    assert cosine(gradient, exact) > 0.99
    assert not any(row.reason == "checkpoint" for row in report.kept)
    inputs = sum(row.bytes for row in exact_report.kept if row.reason == "checkpoint")
    coded = sum(
        row.bytes_after for row in report.tensors if row.op in ("mul", "add") and row.shape == (8, TOKENS, WIDTH)
    )
    assert inputs == 3 * 8 * TOKENS * WIDTH * 4 and coded <= inputs / 7


class Broken(Stack):
    """The same with graph breaks: what enters a region is the input of a graph."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = checkpoint(self.blocks[0], x, use_reentrant=False)
        torch._dynamo.graph_break()
        x = checkpoint(self.blocks[1], x, use_reentrant=False)
        torch._dynamo.graph_break()
        return self.last(checkpoint(self.blocks[2], x, use_reentrant=False))


def test_regions_in_several_graphs() -> None:
    torch.manual_seed(0)
    model = Broken()
    (report, gradient), (_, exact) = trained(model, 4), trained(model, None)
    assert len(report.graphs) == 3 and not report.kept
    assert cosine(gradient, exact) > 0.99


@pytest.mark.cpp
def test_compiled_code() -> None:
    torch.manual_seed(0)
    model = Stack()
    (report, gradient), (_, exact) = trained(model, 4, compiler="inductor"), trained(model, None)
    assert cosine(gradient, exact) > 0.99
    assert not report.kept


DECIDING: list[Function] = [
    lambda x: x * x.argmax(-1, keepdim=True),
    lambda x: x * (x >= x.topk(8, -1)[0][..., -1:]),
    lambda x: x + (x.round() - x).detach(),
    lambda x: F.interpolate(F.max_pool1d(x, 2), scale_factor=2),
    lambda x: torch.sin(30 * x),
    lambda x: (x * x + 1e-4).log(),
]


@pytest.mark.parametrize("function", DECIDING)
def test_a_region_that_decides_or_is_steep_keeps_its_input(function: Function) -> None:
    torch.manual_seed(0)
    model = Stack(function, nn.Identity)
    report, gradient = trained(model, 4)
    assert sum(row.reason == "checkpoint" for row in report.kept) == 3
    assert cosine(gradient, trained(model, 4, "exact")[1]) > 0.9999999


@pytest.mark.parametrize(
    ("bits", "exact", "reasons"),
    [(4, ["blocks.1.up"], ["checkpoint"]), ({"*": 4, "blocks.1": None}, [], ["checkpoint", "user"])],
)
def test_a_region_of_a_module_that_is_to_be_exact_keeps_its_input(
    bits: Any, exact: list[str], reasons: list[str]
) -> None:
    """Without bits it keeps its output, too, which the next region reads."""
    torch.manual_seed(0)
    report, _ = trained(Stack(), bits, exact=exact)
    assert [row.reason for row in report.kept] == reasons


@pytest.mark.parametrize("loud", [100.0, 1000.0])
def test_outliers_are_measured(loud: float, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = Stack()
    model.loud = loud
    _, exact = trained(model, None)
    with caplog.at_level(logging.WARNING, "approx_fx"):
        _, gradient = trained(model, 4)
    assert cosine(gradient, exact) > 0.99
    assert "on this step's data the code of " in caplog.text


def test_products_and_attentions_are_computed_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a region with exact inputs: an attention that is computed again has the log-sum-exp of what is read."""
    counts: list[list[int]] = []
    split = backend.partition_for_peak

    def counted(*args: object) -> object:
        result = split(*args)  # type: ignore[arg-type]
        names = [name_of(node) for node in result[0].backward.graph.nodes]
        counts.append([sum(name in ATTENTION for name in names), sum(name in ("mm", "addmm") for name in names)])
        return result

    monkeypatch.setattr(backend, "partition_for_peak", counted)
    torch.manual_seed(0)
    model = Stack()
    for inputs in ("exact", "coded"):
        trained(model, 8, inputs)
    assert counts[0] == counts[-1] and counts[0][0] == 3
