"""Losses in chunks: loss and gradients are those of the whole, up to rounding, and what cannot be chunked says why."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import approx_fx
from approx_fx.passes import chunk_loss
from tests.support.losses import LOSSES, MIXED, Distilled, Head, compare_step

ROWS = 96  # in chunks of 16


pytestmark = pytest.mark.usefixtures("small_chunks")


def step(model: nn.Module, inputs: tuple[Tensor, ...], scale: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(*inputs)
    (loss * scale).backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def trained(model: nn.Module, inputs: tuple[Tensor, ...], scale: float = 1.0, **options: Any) -> list[str]:
    """Compare a step in chunks, in which nothing is coded, with the exact one; return what is said of the loss."""
    torch._dynamo.reset()
    exact = copy.deepcopy(model)
    approx_fx.convert(model, min_bytes=1 << 40, **{"compiler": "eager", "strict": True, "check": None, **options})
    compare_step(model, exact, inputs, scale)
    return [text for graph in approx_fx.report(model).graphs for text in graph.losses]


def data(rows: int = ROWS) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(rows, 32), torch.randint(512, (rows,))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_in_chunks(name: str, bias: bool) -> None:
    torch.manual_seed(0)
    size = (
        "4 chunks of 24 rows" if "shifted" in name else "6 chunks of 16 rows"
    )  # of whole sequences, of 24 tokens each
    assert trained(Head(LOSSES[name], bias=bias), data()) == [f"head: in {size}"]


@pytest.mark.cpp
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["mean", "ignored labels", "z-loss", "weight of each token", "shifted logits"])
def test_compiled(name: str, bias: bool) -> None:
    torch.manual_seed(0)
    (text,) = trained(Head(LOSSES[name], bias=bias), data(), compiler="inductor")
    assert text.startswith("head: in ")


@pytest.mark.parametrize("bias", [False, True])
def test_a_gradient_is_copied_over_the_logits_only_where_loops_read_it(bias: bool) -> None:
    """That of a bias is a sum over it, which a compiler would delay; products are in the order of their writes."""
    model = approx_fx.convert(Head(LOSSES["mean"], bias=bias), compiler="eager", strict=True, check=None)
    model(*data()).backward()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        model(*data())
    counts = {row.key: row.count for row in profiler.key_averages()}
    assert counts["approx_fx::matmul_into"] == 3 * 6
    assert counts.get("approx_fx::store_into", 0) == (6 if bias else 0)


@pytest.mark.parametrize("compiler", ["eager", pytest.param("inductor", marks=pytest.mark.cpp)])
def test_a_scale_of_the_logits_that_is_learned(compiler: str) -> None:
    """Its gradient reads logits whose memory their own gradient is written to."""

    class Scaled(Head):
        def __init__(self) -> None:
            super().__init__(LOSSES["mean"])
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return self.loss(self.head(torch.tanh(self.body(x))) * self.scale.exp(), labels)

    torch.manual_seed(0)
    assert trained(Scaled(), data(), compiler=compiler) == ["head: in 6 chunks of 16 rows"]


@pytest.mark.parametrize("scale", [0.25, 65536.0])
def test_the_incoming_gradient_scales_all(scale: float) -> None:
    torch.manual_seed(0)
    trained(Head(LOSSES["mean"]), data(), scale=scale)


def test_the_last_chunk_may_be_smaller() -> None:
    torch.manual_seed(0)
    assert trained(Head(LOSSES["mean"]), data(97)) == ["head: in 7 chunks of 16 rows"]


def test_both_logits_of_a_distillation_are_in_chunks() -> None:
    torch.manual_seed(0)
    assert trained(Distilled(), data()[:1]) == ["student: in 6 chunks of 16 rows"]


def test_a_tied_embedding() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.body = nn.Embedding(512, 32), nn.Linear(32, 32)

        def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
            logits = torch.tanh(self.body(self.words(tokens))) @ self.words.weight.T
            return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    torch.manual_seed(0)
    tokens = torch.randint(512, (4, 24))
    assert trained(Tied(), (tokens, tokens.roll(1))) == ["a product: in 6 chunks of 16 rows"]


@pytest.mark.parametrize("name", MIXED)
def test_rows_that_depend_on_each_other_are_left_whole(name: str) -> None:
    torch.manual_seed(0)
    loss, reason = MIXED[name]
    trained(Head(loss), data())
    explained = approx_fx.explain(Head(loss), *data(), options={"bits": 4, "min_bytes": 64})
    (text,) = [text for graph in explained.graphs for text in graph.losses]
    assert text.startswith("head: not in chunks: ") and reason in text


def test_logits_that_are_returned_are_left_whole() -> None:
    class Both(Head):
        def forward(self, x: Tensor, labels: Tensor) -> Any:
            logits = self.head(x) * 1
            return nn.functional.cross_entropy(logits, labels), logits

    torch.manual_seed(0)
    model = Both(LOSSES["mean"])
    approx_fx.convert(model, compiler="eager", strict=True, check=None)
    model(*data())[0].backward()
    (text,) = approx_fx.report(model).graphs[0].losses
    assert text == "head: not in chunks: the graph returns it, as a whole"


class WideBody(nn.Module):
    """A body whose values, kept exactly, are far larger than its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(24, 8192), nn.Tanh(), nn.Linear(8192, 24), nn.Tanh())
        self.head = nn.Linear(24, 512)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.body(x)), labels)


@pytest.mark.parametrize("choice", [True, "always"])
def test_a_loss_that_is_not_at_the_peak_is_left_whole(choice: bool | str) -> None:
    torch.manual_seed(0)
    model, inputs = WideBody(), (torch.randn(96, 24), torch.randint(512, (96,)))
    exact = copy.deepcopy(model)
    options: dict[str, Any] = {"chunk_loss": choice, "min_bytes": 1 << 40, "compiler": "eager"}
    approx_fx.convert(model, **options, strict=True, check=None)
    compare_step(model, exact, inputs)
    (text,) = [text for text in approx_fx.report(model).graphs[0].losses if text.startswith("head: ")]
    is_whole = "head: not in chunks: they would lower the step's predicted peak by 0%, less than 5%"
    assert text == (is_whole if choice is True else "head: in 6 chunks of 16 rows")


def test_a_second_backward_is_refused_or_right() -> None:
    torch.manual_seed(0)
    model = Head(LOSSES["mean"])
    exact = copy.deepcopy(model)
    approx_fx.convert(model, min_bytes=1 << 40, compiler="eager", strict=True, check=None)
    loss, expected = model(*data()), exact(*data())
    for item in (loss, expected):
        item.backward(retain_graph=True)
        item.backward()
    for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)


def test_float16_is_left_whole() -> None:
    """Its gradients need the scaler's factor, which is multiplied behind the chunks."""
    torch.manual_seed(0)
    model = Head(LOSSES["mean"])
    approx_fx.convert(model, compiler="eager", strict=True, check=None)
    with torch.autocast("cpu", torch.float16):
        loss = model(*data())
    loss.backward()
    (text,) = approx_fx.report(model).graphs[0].losses
    assert text == "head: not in chunks: it is read by a float16 op, in which its gradient would vanish"


def test_bfloat16() -> None:
    torch.manual_seed(0)
    model, inputs = Head(LOSSES["mean"], bias=True), data()
    exact = copy.deepcopy(model)
    approx_fx.convert(model, min_bytes=1 << 40, compiler="eager", strict=True, check=None)
    for item in (model, exact):
        with torch.autocast("cpu", torch.bfloat16):
            loss = item(*inputs)
        loss.backward()
    assert approx_fx.report(model).graphs[0].losses == ("head: in 6 chunks of 16 rows",)
    for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() < 0.01 * theirs.grad.norm()


@pytest.mark.parametrize(
    ("rows", "row_bytes", "is_cached", "sizes"),
    [
        (2048, 65536, False, [128] * 16),
        (2048, 65536, True, [64] * 32),
        (2048, 200_000, True, [64] * 32),
        (1009, 65536, False, [128] * 7 + [113]),
        (100, 65536, False, [100]),
        (131072, 65536, False, [2048] * 64),
        (2048, 4096, False, [1024] * 2),
        (2048, 4096, True, [1024] * 2),
    ],
)
def test_sizes(rows: int, row_bytes: int, is_cached: bool, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert chunk_loss.chunk_sizes(rows, row_bytes, is_cached=is_cached) == sizes


class Column(Head):
    """The loss, and a column of the logits, which is a view of them."""

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        logits = self.head(torch.tanh(self.body(x)))
        return self.loss(logits, labels), logits[:, 3].detach()


@pytest.mark.parametrize("compiler", ["eager", pytest.param("inductor", marks=pytest.mark.cpp)])
def test_a_view_of_the_logits_outlives_its_chunk(compiler: str) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Column(LOSSES["mean"])
    exact = copy.deepcopy(model)
    approx_fx.convert(model, min_bytes=1 << 40, compiler=compiler, strict=True, check=None)
    torch.testing.assert_close(model(*data())[1], exact(*data())[1], rtol=1e-6, atol=1e-6)
    assert approx_fx.report(model).graphs[0].losses == ("head: in 6 chunks of 16 rows",)


def test_a_scaled_product_is_left_whole() -> None:
    class Scaled(Head):
        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            hidden = torch.tanh(self.body(x))
            return self.loss(torch.addmm(self.head.bias, hidden, self.head.weight.T, beta=0.5, alpha=2.0), labels)

    torch.manual_seed(0)
    assert trained(Scaled(LOSSES["mean"], bias=True), data()) == []


def test_a_product_that_another_region_has() -> None:
    class Soft(Head):
        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            logits = self.head(torch.tanh(self.body(x)))
            again = logits.softmax(-1) @ self.head.weight
            return self.loss(logits, labels) + self.loss(again @ self.head.weight.T, labels)

    torch.manual_seed(0)
    assert trained(Soft(LOSSES["mean"]), data())


def test_a_sum_of_16_bits_does_not_overflow() -> None:
    class Metric(Head):
        def forward(self, x: Tensor, labels: Tensor) -> Any:
            logits = self.head(torch.tanh(self.body(x)))
            return self.loss(logits, labels), (logits.detach() * 30).half().square().mean()

    torch.manual_seed(0)
    model = Metric(LOSSES["mean"])
    expected = model(*data())[1]
    approx_fx.convert(model, min_bytes=1 << 40, compiler="eager", strict=True, check=None)
    torch.testing.assert_close(model(*data())[1], expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("compiler", ["eager", pytest.param("inductor", marks=pytest.mark.cpp)])
@pytest.mark.parametrize("name", ["mean", "distance to one-hot"])
def test_the_first_step_is_measured(name: str, compiler: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Head(LOSSES[name])
    exact = copy.deepcopy(model)
    approx_fx.convert(model, bits=4, min_bytes=256, compiler=compiler, strict=True)
    (_, gradients), (_, expected) = step(model, data()), step(exact, data())
    assert min(cosine(gradients[key], expected[key]) for key in expected) > 0.95
    assert not [record.getMessage() for record in caplog.records if "could not measure" in record.getMessage()]
    assert approx_fx.report(model).graphs[0].losses == ("head: in 6 chunks of 16 rows",)


def test_gradients_that_the_forward_computes_are_never_coded() -> None:
    """Under autocast they are cast, and the cast is not coded either."""
    torch.manual_seed(0)
    model, inputs = Head(LOSSES["mean"], bias=True), data()
    exact = copy.deepcopy(model)
    approx_fx.convert(model, bits=2, min_bytes=256, compiler="eager", strict=True, check=None)
    for item in (model, exact):
        with torch.autocast("cpu", torch.bfloat16):
            loss = item(*inputs)
        loss.backward()
    for ours, theirs in zip(model.head.parameters(), exact.head.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() < 0.01 * theirs.grad.norm()
    assert {row.module for row in approx_fx.report(model).tensors} == {""}  # what tanh read


@pytest.mark.parametrize("breaks", [False, True])
@pytest.mark.parametrize("data_of", ["bell", "outlier feature", "outlier token"])
def test_hard_data_in_one_graph_and_in_two(data_of: str, breaks: bool) -> None:
    class Deep(Head):
        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            x = nn.functional.layer_norm(nn.functional.gelu(self.body(x)), (32,))
            if breaks:
                torch._dynamo.graph_break()
            return self.loss(self.head(nn.functional.rms_norm(x + self.body(x), (32,))), labels)

    torch.manual_seed(0)
    torch._dynamo.reset()
    model, (x, labels) = Deep(LOSSES["ignored labels"]), data()
    if data_of != "bell":
        x[(slice(None), 3) if data_of == "outlier feature" else 5] *= 300
    exact = copy.deepcopy(model)
    approx_fx.convert(model, bits=4, min_bytes=256, compiler="eager", strict=True)
    (_, gradients), (_, expected) = step(model, (x, labels)), step(exact, (x, labels))
    assert min(cosine(gradients[name], expected[name]) for name in expected) > 0.95
    graphs = approx_fx.report(model).graphs
    assert len(graphs) == 1 + breaks
    assert [text for graph in graphs for text in graph.losses] == ["head: in 6 chunks of 16 rows"]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))
