"""The peak that is predicted from generated code is the one that is measured, without and with a loss in the graph."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import approx_fx
from approx_fx.bench.checkpoint import checkpoint_blocks
from approx_fx.bench.code_peak import code_peak
from approx_fx.bench.live_bytes import measure
from approx_fx.bench.target import loss_inside
from approx_fx.errors import ApproxFxError
from models.gpt import GPT
from models.mlp import mlp
from models.resnet import resnet20


def gpt_with_loss(batch: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A GPT whose logits are eight times as large as its hidden state, so that its loss is computed in chunks."""
    model = GPT(2, 64, 4, 8192, 64)
    tokens = torch.randint(8192, (batch, 64))
    target = tokens.roll(-1, 1).flatten()
    return loss_inside(model, lambda logits: nn.functional.cross_entropy(logits.flatten(0, 1), target)), (tokens,)


def gpt_with_checkpoints(batch: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The same with each block recomputed; attention then draws from a generator whose state is kept."""
    model, inputs = gpt_with_loss(batch)
    return checkpoint_blocks(model, restore=False), inputs


FACTORIES: dict[str, Callable[[], tuple[Any, ...]]] = {
    "resnet20": functools.partial(resnet20, 16),
    "mlp": functools.partial(mlp, 256),
    "gpt with its loss": functools.partial(gpt_with_loss, 8),
    "gpt with checkpoints": functools.partial(gpt_with_checkpoints, 8),
}

LARGER = ("resnet20", "gpt with checkpoints")


@pytest.mark.cpp
@pytest.mark.parametrize(
    "name", ["mlp", "gpt with its loss", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGER)]
)
def test_within_three_percent(name: str) -> None:
    predicted = code_peak(*_example(name), options={"bits": 4})
    for key, bits in (("before", None), ("after", 4)):
        torch._dynamo.reset()
        model, *inputs = _example(name)
        run = torch.compile(model) if bits is None else approx_fx.convert(model, bits=bits, check=None)

        def step(run: Any = run, model: nn.Module = model, inputs: list[torch.Tensor] = inputs) -> None:
            model.zero_grad(set_to_none=True)
            out = run(*inputs)
            out.square().mean().backward()

        step()
        model.zero_grad(set_to_none=True)
        measured = measure(step).peak
        assert abs(predicted[key] - measured) <= 0.03 * measured, key


def _example(name: str) -> tuple[Any, ...]:
    torch.manual_seed(0)
    model, inputs = FACTORIES[name]()[:2]
    return model, *inputs


def test_nothing_is_left_behind() -> None:
    """No report goes to disk, gradients and buffers are untouched, and exact bits predict what torch.compile does."""
    model, *inputs = _example("resnet20")
    buffers = [buffer.clone() for buffer in model.buffers()]
    peaks = code_peak(model, *inputs, options={"bits": None})
    assert peaks["before"] == peaks["after"] > 0
    assert all(map(torch.equal, buffers, model.buffers()))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not approx_fx.report(model).graphs


def test_modules_keep_their_names() -> None:
    """A report of a model whose forward returns the loss names its modules as the model does."""
    model, inputs = gpt_with_loss(2)
    report = approx_fx.explain(model, *inputs, bits=4, min_bytes=0)
    assert {row.module for row in report.tensors} <= {name for name, _ in model.named_modules()}


def test_sizes_are_fixed() -> None:
    """Of a model that is given another batch, too, there is a figure for each."""
    first, second = (code_peak(*mlp(batch)[:1], *mlp(batch)[1], bits=4)["after"] for batch in (256, 512))
    assert first < second


def test_layers_that_torch_calls_from_a_library() -> None:
    with pytest.raises(ApproxFxError, match=r"nn\.LSTM, nn\.GRU and nn\.RNN are not in torch.compile's code"):
        code_peak(nn.Sequential(nn.LSTM(4, 4)), torch.randn(3, 2, 4))
