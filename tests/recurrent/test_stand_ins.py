"""The stand-ins for torch.lstm, torch.gru and the plain layers: outputs, last states and all gradients are torch's."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from approx_fx.recurrent.layers import STAND_INS
from approx_fx.recurrent.steps import previous

FUNCTIONS = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}
KINDS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "lstm": (nn.LSTM, {}),
    "lstm, projected": (nn.LSTM, {"proj_size": 3}),
    "gru": (nn.GRU, {}),
    "tanh": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
}
SIZES = [7, 5, 5, 2]  # lengths of the packed sequences


def states_of(layer: nn.RNNBase, batch: int) -> list[Tensor]:
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    widths = [layer.proj_size or layer.hidden_size, *([layer.hidden_size] if layer.mode == "LSTM" else [])]
    return [torch.randn(count, batch, width, dtype=torch.double, requires_grad=True) for width in widths]


def results(function: Any, layer: nn.RNNBase, x: Tensor, states: list[Tensor], packed: bool) -> list[Tensor]:
    initial = tuple(states) if layer.mode == "LSTM" else states[0]
    rest = (layer._flat_weights, layer.bias, layer.num_layers, 0.0, True, layer.bidirectional)
    if packed:
        rows = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(SIZES), batch_first=layer.batch_first)
        return list(function(rows.data, rows.batch_sizes, initial, *rest))
    return list(function(x, initial, *rest, layer.batch_first))


def assert_the_same(layer: nn.RNNBase, x: Tensor, packed: bool) -> None:
    states = states_of(layer, 4)
    function = FUNCTIONS[layer.mode]
    expected = results(function, layer, x, states, packed)
    given_ = results(STAND_INS[function], layer, x, states, packed)
    leaves = [x, *states, *layer.parameters()]
    weights = [torch.randn_like(value) for value in expected]
    gradients = [
        torch.autograd.grad(sum((value * w).sum() for value, w in zip(values, weights, strict=True)), leaves)  # type: ignore[arg-type]
        for values in (expected, given_)
    ]
    for ours, theirs in zip([*given_, *gradients[1]], [*expected, *gradients[0]], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_all_arguments(kind: str) -> None:
    torch.manual_seed(0)
    for bidirectional, bias, batch_first, packed in itertools.product([False, True], repeat=4):
        cls, options = KINDS[kind]
        layer = cls(6, 5, 2, bias=bias, batch_first=batch_first, bidirectional=bidirectional, **options).double()
        x = torch.randn(4, 7, 6, dtype=torch.double)
        x = (x if batch_first else x.transpose(0, 1).contiguous()).requires_grad_()
        assert_the_same(layer, x, packed)


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_last_state_is_read(kind: str) -> None:
    """No gradient comes in for the outputs."""
    torch.manual_seed(0)
    cls, options = KINDS[kind]
    layer = cls(6, 5, **options).double()
    x, states = torch.randn(7, 4, 6, dtype=torch.double, requires_grad=True), states_of(layer, 4)
    function = FUNCTIONS[layer.mode]
    for position in range(1, 1 + len(states)):
        of_torch, ours = (
            torch.autograd.grad(results(f, layer, x, states, False)[position].square().sum(), [x, *layer.parameters()])
            for f in (function, STAND_INS[function])
        )
        for a, b in zip(ours, of_torch, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.booleans())
def test_previous_rows(lengths: list[int], reverse: bool) -> None:
    lengths = sorted(lengths, reverse=True)
    steps = range(lengths[0])
    batch_sizes = torch.tensor([sum(length > t for length in lengths) for t in steps])
    names = torch.tensor([100 * t + b for t in steps for b in range(int(batch_sizes[t]))])[:, None]
    initial = -1 - torch.arange(len(lengths))[:, None]
    expected = []
    for name in names.flatten().tolist():
        t, b = divmod(name, 100)
        before = t + 1 if reverse else t - 1
        expected.append(100 * before + b if 0 <= before < lengths[b] else -1 - b)
    assert previous(names, initial, batch_sizes, reverse).flatten().tolist() == expected
    if len(set(lengths)) == 1:
        assert previous(names, initial, None, reverse).flatten().tolist() == expected
