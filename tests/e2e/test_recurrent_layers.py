"""nn.LSTM, nn.GRU and nn.RNN in one line: their gates are coded, and a long sequence compiles to a short graph."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.errors import ApproxFxError

KINDS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "lstm": (nn.LSTM, {}),
    "lstm, both ways": (nn.LSTM, {"bidirectional": True}),
    "lstm, projected": (nn.LSTM, {"proj_size": 32}),
    "gru": (nn.GRU, {}),
    "tanh": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
}
TOKENS = torch.randint(32, (16, 24), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.randint(8, 25, (16,), generator=torch.Generator().manual_seed(0))
OPTIONS: dict[str, Any] = {"compiler": "eager", "min_bytes": 1024}


class Text(nn.Module):
    """A token model; with lengths, over a packed batch."""

    def __init__(self, kind: str, dropout: float = 0.0) -> None:
        super().__init__()
        cls, options = KINDS[kind]
        self.token, self.cells = nn.Embedding(32, 64), cls(64, 64, 2, batch_first=True, dropout=dropout, **options)
        width = (self.cells.proj_size or 64) * (2 if self.cells.bidirectional else 1)
        self.head = nn.Linear(width, 32)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None, states: Any = None) -> tuple[Tensor, Any]:
        x: Any = self.token(tokens)
        if lengths is not None:
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, last = self.cells(x, states)
        if lengths is not None:
            y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
        return self.head(y), last


def loss_of(logits: Tensor) -> Tensor:
    targets = TOKENS.roll(1, 1)[:, : logits.shape[1]]
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def train(model: nn.Module, *args: Any) -> Tensor:
    """The gradients of a second step, as one vector."""
    for _ in range(2):
        model.zero_grad()
        loss_of(model(TOKENS, *args)[0]).backward()
    return gradients(model)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gates_are_coded(kind: str, packed: bool) -> None:
    """What is saved besides the layers, the head's input at a border, is a large part of these small packed models."""
    model = Text(kind)
    args = [LENGTHS] if packed else []
    exact = train(copy.deepcopy(model), *args)
    ours = train(approx_fx.convert(model, bits=4, **OPTIONS), *args)
    assert cosine(exact, ours) > 0.99
    report = approx_fx.report(model)
    assert len(report.graphs) == (3 if packed else 1)
    assert not any(graph.failed for graph in report.graphs)
    assert report.ratio > (5.5 if packed else 8)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_states_carried_over(kind: str) -> None:
    """Truncated backpropagation: the last states of a step start the next."""
    model = Text(kind)
    found = []
    for net in (copy.deepcopy(model), approx_fx.convert(model, bits=8, **OPTIONS)):
        states: Any = None
        for _ in range(3):
            net.zero_grad()
            logits, states = net(TOKENS, None, states)
            loss_of(logits).backward()
            states = tuple(s.detach() for s in states) if isinstance(states, tuple) else states.detach()
        found.append((gradients(net), states[0]))
    assert cosine(found[0][0], found[1][0]) > 0.999
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-5)


def test_gradients_of_given_states() -> None:
    model = Text("lstm").requires_grad_(False)
    found = []
    for net in (copy.deepcopy(model), approx_fx.convert(model, bits=8, **OPTIONS)):
        states = tuple(torch.full((2, 16, 64), 0.1, requires_grad=True) for _ in range(2))
        loss_of(net(TOKENS, None, states)[0]).backward()
        found.append(torch.cat([s.grad.flatten() for s in states if s.grad is not None]))
    assert len(found[0]) == len(found[1]) and cosine(*found) > 0.999


def test_a_forward_is_exact() -> None:
    model = Text("lstm")
    expected = model(TOKENS)
    given = approx_fx.convert(model, bits=2, **OPTIONS)(TOKENS)
    torch.testing.assert_close(given, expected, atol=1e-6, rtol=1e-5)


def test_a_long_sequence_is_a_short_graph() -> None:
    """Twice the steps, the same number of ops."""
    counts = []
    for length in (64, 128):
        torch._dynamo.reset()
        report = approx_fx.explain(Text("lstm"), TOKENS.repeat(1, 8)[:, :length], **OPTIONS)
        assert report.ratio > 8
        counts.append(len(report.both_partitions[0].coded.forward.graph.nodes))  # type: ignore[union-attr]
    assert counts[0] == counts[1] < 150


@pytest.mark.cpp
def test_compiled() -> None:
    model = Text("lstm")
    exact = train(copy.deepcopy(model))
    ours = train(approx_fx.convert(model, bits=4, min_bytes=1024, strict=True))
    assert cosine(exact, ours) > 0.99
    assert approx_fx.report(model).ratio > 8


def test_autocast() -> None:
    model = Text("lstm")
    exact = train(copy.deepcopy(model))
    approx_fx.convert(model, bits=8, **OPTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        ours = train(model)
    assert cosine(exact, ours) > 0.99
    assert approx_fx.report(model).ratio > 3


def test_packed_batches_of_other_lengths() -> None:
    """The compiled layer takes sizes that it has not seen."""
    model = Text("gru")
    exact = copy.deepcopy(model)
    approx_fx.convert(model, bits=8, **OPTIONS)
    for seed in range(4):
        lengths = torch.randint(4, 25, (16,), generator=torch.Generator().manual_seed(seed))
        assert cosine(train(exact, lengths), train(model, lengths)) > 0.999


def test_a_layer_alone_with_a_packed_batch() -> None:
    layer = approx_fx.convert(nn.LSTM(64, 64), bits=4, strict=True, **OPTIONS)
    x = nn.utils.rnn.pack_padded_sequence(torch.randn(24, 8, 64), torch.tensor([24, 20, 20, 17, 12, 9, 9, 3]))
    outputs, _ = layer(x)
    outputs.data.sum().backward()
    assert approx_fx.report(layer).ratio > 6


def test_a_copy_stays_converted() -> None:
    model = approx_fx.convert(Text("lstm"), bits=4, **OPTIONS)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        train(twin, LENGTHS)
        assert approx_fx.report(twin).ratio > 6


def test_the_last_conversion_counts() -> None:
    """Also for packed batches, which the layer's own conversion runs."""
    model = Text("gru")
    exact = copy.deepcopy(model)
    for bits in (8, 4):
        train(approx_fx.convert(model, bits=bits, **OPTIONS), LENGTHS)
        assert {row.bits for row in approx_fx.report(model).tensors} == {bits}
    assert torch.equal(train(approx_fx.convert(model, bits=None, **OPTIONS), LENGTHS), train(exact, LENGTHS))


def test_restore() -> None:
    model = Text("lstm")
    exact = copy.deepcopy(model)
    approx_fx.restore(approx_fx.convert(model, bits=2, **OPTIONS))
    for args in ([], [LENGTHS]):
        assert torch.equal(train(exact, *args), train(model, *args))


def test_dynamo_is_as_before() -> None:
    """Other models' recurrent layers are not traced because one model was converted."""
    train(approx_fx.convert(Text("gru"), bits=4, **OPTIONS))
    assert torch._dynamo.config.allow_rnn is False
    seen: list[Any] = []
    torch.compile(nn.GRU(8, 8), backend=lambda module, inputs: seen.append(module) or module)(torch.randn(3, 2, 8))
    assert not seen


def test_exact_mode_leaves_them_to_eager(caplog: pytest.LogCaptureFixture) -> None:
    """As torch.compile does, to the bit, and without a word."""
    model = Text("lstm")
    exact = copy.deepcopy(model)
    approx_fx.convert(model, bits=None, **OPTIONS)
    with caplog.at_level(logging.WARNING, "approx_fx"):
        for args in ([], [LENGTHS]):
            assert torch.equal(train(exact, *args), train(model, *args))
    assert not caplog.records
    assert approx_fx.report(model).ratio == 1


def test_dropout_between_layers() -> None:
    """Its mask is the same in the backward: at 8 bits and at 4 the same gradient."""
    found = []
    for bits in (8, 4):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = approx_fx.convert(Text("lstm", dropout=0.5), bits=bits, **OPTIONS)
        torch.manual_seed(1)
        found.append(train(model))
    assert cosine(*found) > 0.99


def test_inference_keeps_the_ops_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("an op over time was called")

    monkeypatch.setattr("approx_fx.recurrent.lstm.Steps.of", fail)
    model = approx_fx.convert(Text("lstm"), bits=4, **OPTIONS)
    with torch.no_grad():
        model(TOKENS)


def test_the_backend_codes_what_dynamo_is_told_to_trace(caplog: pytest.LogCaptureFixture) -> None:
    model = Text("lstm")
    compiled = torch.compile(model, backend="approx_fx", options={"bits": 4, **OPTIONS})
    with torch._dynamo.config.patch(allow_rnn=True), caplog.at_level(logging.WARNING, "approx_fx"):
        train(compiled)
    assert approx_fx.report(model).ratio > 8


def test_a_class_of_ones_own_is_left_to_torch() -> None:
    """A packed batch of a subclass, whose forward may do anything, runs by it, and strict says so."""

    class Mine(nn.LSTM):
        pass

    layer = approx_fx.convert(Mine(64, 64), bits=4, strict=True, **OPTIONS)
    x = nn.utils.rnn.pack_padded_sequence(torch.randn(24, 2, 64), torch.tensor([24, 20]))
    with pytest.raises(ApproxFxError, match="Mine trains exactly"):
        layer(x)[0].data.sum()
