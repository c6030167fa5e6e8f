"""Logits that a model returns beside its loss: not kept, computed exactly and with gradients when they are read."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import approx_fx
from approx_fx.bench.live_bytes import measure
from approx_fx.chunk import region
from approx_fx.chunk.deferred import DeferredLogits
from approx_fx.errors import ApproxFxError

WORDS = 512


class Model(nn.Module):
    """tokens (B, T) -> (loss, logits), or a dictionary of them, as transformers' models return them."""

    def __init__(self, as_dict: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.words, self.body, self.head = nn.Embedding(WORDS, 32), nn.Linear(32, 32), nn.Linear(32, WORDS, bias=bias)
        self.as_dict = as_dict

    def forward(self, tokens: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.head(torch.tanh(self.body(self.words(tokens))))
        if labels is None:
            return logits
        loss = F.cross_entropy(logits.float().view(-1, WORDS), labels.view(-1))
        return {"loss": loss, "logits": logits} if self.as_dict else (loss, logits)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region, "LEAST_ELEMENTS", 4096)


def built(compiler: str = "eager", **options: Any) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Model(**options)
    exact = copy.deepcopy(model)
    approx_fx.convert(model, min_bytes=1 << 40, compiler=compiler, strict=True, check=None)
    return model, exact, torch.randint(WORDS, (4, 24))


@pytest.mark.parametrize("compiler", ["eager", pytest.param("inductor", marks=pytest.mark.cpp)])
@pytest.mark.parametrize("bias", [False, True])
def test_they_are_the_models_logits(bias: bool, compiler: str) -> None:
    model, exact, tokens = built(compiler, bias=bias)
    (loss, logits), (expected_loss, expected) = model(tokens, tokens), exact(tokens, tokens)
    assert type(logits) is DeferredLogits and logits.shape == expected.shape and logits.dtype == expected.dtype
    assert logits.device == expected.device and len(logits) == 4 and logits.size(-1) == WORDS and logits.dim() == 3
    assert logits.result is None, "asking for its sizes must not compute it"
    torch.testing.assert_close(logits + 0, expected + 0, rtol=1e-6, atol=1e-6)
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))
    loss.backward()
    expected_loss.backward()
    for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)
    assert "in " in approx_fx.report(model).graphs[0].losses[0]


def test_a_loss_of_them_outside_has_gradients() -> None:
    model, exact, tokens = built(as_dict=True)
    for item in (model, exact):
        output = item(tokens, tokens)
        (output["loss"] + output["logits"].square().mean()).backward()
    for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("how", ["optimizer", "data"])
def test_they_cannot_be_read_behind_the_optimizer(how: str) -> None:
    model, _, tokens = built()
    loss, logits = model(tokens, tokens)
    loss.backward()
    if how == "optimizer":
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    else:
        model.head.weight.data.add_(1e-3)
    text = "the logits of this training step were not kept, and what they are computed from has changed since"
    with pytest.raises(ApproxFxError, match=text):
        logits.mean()


def test_once_read_they_stay() -> None:
    model, exact, tokens = built()
    logits, expected = model(tokens, tokens)[1], exact(tokens, tokens)[1]
    logits.mean()
    with torch.no_grad():
        model.head.weight.zero_()
    torch.testing.assert_close(logits.detach(), expected.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "use",
    [
        repr,
        lambda x: x.float().softmax(-1),
        lambda x: x.detach().cpu().numpy().sum(),
        lambda x: x[..., :-1, :].contiguous(),
        lambda x: torch.save(x.detach(), io.BytesIO()),
        copy.copy,
        lambda x: copy.deepcopy(x.detach()),
        lambda x: torch.cat([x, x]),
        lambda x: torch.cat([torch.zeros_like(x.detach()), x]),
        lambda x: [row.sum() for row in x],
        lambda x: x.backward(torch.ones(x.shape)),
        lambda x: F.cross_entropy(x.flatten(0, 1), torch.zeros(96, dtype=torch.int64)).backward(),
        lambda x: x.register_hook(lambda gradient: gradient),
    ],
)
def test_whatever_reads_them_may(use: Any) -> None:
    model, _, tokens = built()
    use(model(tokens, tokens)[1])


def test_logits_without_a_loss_and_evaluation_are_as_ever() -> None:
    model, _, tokens = built()
    assert type(model(tokens)) is Tensor
    with torch.no_grad():
        assert type(model(tokens, tokens)[1]) is Tensor


def test_the_option_leaves_them_whole() -> None:
    torch.manual_seed(0)
    model, tokens = Model(), torch.randint(WORDS, (4, 24))
    approx_fx.convert(model, chunk_loss=False, compiler="eager", strict=True, check=None)
    loss, logits = model(tokens, tokens)
    loss.backward()
    assert type(logits) is Tensor and approx_fx.report(model).graphs[0].losses == ()


@pytest.mark.cpp
def test_the_peak_of_a_step_has_no_copy_of_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    torch.manual_seed(0)
    torch._dynamo.reset()
    model, tokens = Model(), torch.randint(WORDS, (64, 128))  # logits of 16 MiB
    approx_fx.convert(model, strict=True, check=None)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(tokens, tokens)[0].backward()

    step()
    step()
    model.zero_grad(set_to_none=True)
    assert measure(step).peak < 12 * 2**20


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * ctx.saved_tensors[0] * gradient


@pytest.mark.parametrize(
    "read",
    [
        Square.apply,
        torch.vmap(torch.sin),
        lambda x: checkpoint(torch.exp, x, use_reentrant=True),
        lambda x: checkpoint(torch.exp, x, use_reentrant=False),
        lambda x: x.view(-1, WORDS).t() @ x.view(-1, WORDS),
    ],
)
def test_all_of_autograd_takes_them_for_a_result(read: Any) -> None:
    model, exact, tokens = built()
    for item in (model, exact):
        loss, logits = item(tokens, tokens)
        assert logits.requires_grad and not logits.is_leaf
        with torch.no_grad():
            logits.argmax(-1)
        (loss + read(logits).square().mean()).backward()
    for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


class Written(Model):
    """The logits, or what they are computed from, are written to behind the head."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, tokens: Tensor, labels: Tensor) -> Any:  # type: ignore[override]
        hidden = torch.tanh(self.body(self.words(tokens)))
        logits = self.head(hidden)
        if self.how == "scaled":
            logits.mul_(0.5)
        if self.how == "filled":
            logits[..., -4:] = -100.0
        loss = F.cross_entropy(logits.view(-1, WORDS), labels.view(-1))
        return (loss, logits, hidden) if self.how == "hidden" else (loss, logits)


@pytest.mark.parametrize("how", ["scaled", "filled", "hidden"])
def test_logits_that_are_written_to_are_as_the_model_returns_them(how: str) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model, tokens = Written(how), torch.randint(WORDS, (4, 24))
    exact = copy.deepcopy(model)
    approx_fx.convert(model, compiler="eager", strict=True, check=None)
    (_, logits, *rest), (_, expected, *_) = model(tokens, tokens), exact(tokens, tokens)
    for hidden in rest:
        hidden.data.zero_()
    torch.testing.assert_close(logits.detach() + 0, expected.detach(), rtol=1e-6, atol=1e-6)


def test_a_bias_that_trains_alone() -> None:
    model, _, tokens = built()
    model.head.weight.requires_grad_(False)
    loss, logits = model(tokens, tokens)
    loss.backward()
    torch.optim.SGD([model.head.bias], lr=0.1).step()
    with pytest.raises(ApproxFxError, match="has changed since"):
        logits.mean()


def test_under_autocast_they_have_its_dtype() -> None:
    model, exact, tokens = built()
    results = []
    for item in (model, exact):
        with torch.autocast("cpu", torch.bfloat16):
            results.append(item(tokens, tokens)[1])
    ours, expected = results
    assert type(ours) is DeferredLogits and ours.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(ours.detach().float(), expected.detach().float(), rtol=0.02, atol=0.02)


def test_they_are_pickled_and_copied_as_they_are() -> None:
    model, exact, tokens = built()
    logits, expected = model(tokens, tokens)[1].detach(), exact(tokens, tokens)[1].detach()
    file = io.BytesIO()
    torch.save(logits, file)
    file.seek(0)
    for other in (torch.load(file), copy.deepcopy(logits), logits.clone()):
        assert type(other) is Tensor
        torch.testing.assert_close(other, expected, rtol=1e-6, atol=1e-6)
