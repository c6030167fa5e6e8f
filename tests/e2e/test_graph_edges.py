"""A step of several graphs: what a graph keeps of another graph's activations is coded, and the report adds up."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.bench.live_bytes import measure
from models.gpt import Block

WIDTH, LENGTH, BATCH = 64, 32, 4
OPTIONS: dict[str, Any] = {"bits": 4, "min_bytes": 256, "compiler": "eager", "strict": True}


class Blocks(nn.Module):
    """Blocks of a GPT, and nothing else; a graph break in front of the ones named."""

    def __init__(self, depth: int = 4, breaks: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.blocks, self.breaks = nn.ModuleList(Block(WIDTH, 4, 0.0) for _ in range(depth)), breaks

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x)
        if 1 in self.breaks:
            torch._dynamo.graph_break()
        x = self.blocks[1](x)
        if 2 in self.breaks:
            torch._dynamo.graph_break()
        return self.blocks[3](self.blocks[2](x))


def inputs() -> Tensor:
    return torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))


def step(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).sum()


def held(model: nn.Module) -> int:
    """Bytes alive between forward and backward, by the allocator; the loss's own are 4."""
    for _ in range(2):
        step(model, inputs()).backward()
        model.zero_grad(set_to_none=True)
    x = inputs()
    gc.collect()
    return measure(lambda: step(model, x)).held


def converted(model: nn.Module) -> nn.Module:
    return approx_fx.convert(model, **OPTIONS)


def one_by_one(model: Blocks) -> nn.Module:
    for block in model.blocks:
        approx_fx.convert(block, **OPTIONS)
    return model


def compiled_one_by_one(model: Blocks) -> nn.Module:
    for index, block in enumerate(model.blocks):
        model.blocks[index] = torch.compile(block, backend="approx_fx", options=OPTIONS)
    return model


@pytest.mark.parametrize(
    ("build", "breaks", "graphs"),
    [
        (converted, (), 1),
        (converted, (1, 2), 3),
        (one_by_one, (), 4),
        (compiled_one_by_one, (), 4),
    ],
)
def test_what_is_held_is_what_the_report_says(
    build: Callable[[Blocks], nn.Module], breaks: tuple[int, ...], graphs: int
) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Blocks(breaks=breaks)
    exact = copy.deepcopy(model)
    step(exact, inputs()).backward()
    model = build(model)
    assert isinstance(model, Blocks)
    live = held(model)
    report = approx_fx.report(model)
    assert len(report.graphs) == graphs
    assert live == pytest.approx(report.saved_after, abs=64, rel=0.002)
    assert report.saved_before / report.saved_after > 10
    step(model, inputs()).backward()
    ours, right = flat_gradients(model), flat_gradients(exact)
    assert float(ours @ right / (ours.norm() * right.norm())) > 0.99


def test_blocks_converted_one_by_one_save_as_the_whole_does() -> None:
    torch._dynamo.reset()
    whole, parts = converted(Blocks()), one_by_one(Blocks())
    for model in (whole, parts):
        step(model, inputs()).backward()
    assert approx_fx.report(parts).ratio >= 0.95 * approx_fx.report(whole).ratio


def test_the_callers_own_input_is_not_coded() -> None:
    """It is alive in any case, whether it needs a gradient or not: a code would only be added to it."""
    for needs_gradient in (False, True):
        torch._dynamo.reset()
        model = converted(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sigmoid(), nn.Linear(WIDTH, WIDTH)))
        model(inputs().requires_grad_(needs_gradient)).sum().backward()
        assert [row.op for row in approx_fx.report(model).tensors] == ["sigmoid"]


def test_a_report_is_of_the_last_step() -> None:
    """Another batch, a second conversion, and a second call in a step."""
    torch._dynamo.reset()
    layers = [nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)]
    model = approx_fx.convert(nn.Sequential(*layers), dynamic=False, **OPTIONS)

    def saved(*batches: int) -> tuple[int, int]:
        losses = [model(torch.randn(batch, WIDTH)).sum() for batch in batches]
        sum(losses[1:], losses[0]).backward()
        report = approx_fx.report(model)
        return len(report.graphs), report.saved_before

    small, large = saved(64), saved(256)
    assert small[0] == large[0] == 1 and large[1] > small[1]
    assert saved(64) == small
    assert saved(256, 256) == (2, 2 * large[1])
    with torch.no_grad():
        model(torch.randn(8, WIDTH))
    assert len(approx_fx.report(model).graphs) == 2
    approx_fx.convert(model, **{**OPTIONS, "bits": 8})
    assert saved(256)[0] == 1
    assert {row.bits for row in approx_fx.report(model).tensors} == {8}


def test_two_models_of_a_class_have_reports_of_their_own() -> None:
    torch._dynamo.reset()
    models = [Blocks(), Blocks()]
    for model in models:
        compiled = torch.compile(model, backend="approx_fx", options=OPTIONS)
        compiled(inputs()).sum().backward()
    reports = [approx_fx.report(model) for model in models]
    assert len(reports[0].graphs) == len(reports[1].graphs) == 1
    assert reports[0].saved_before == reports[1].saved_before > 0


def test_explain_tells_what_several_graphs_save() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Blocks(breaks=(1, 2))
    told = approx_fx.explain(model, inputs(), bits=4, min_bytes=256)
    converted(model)
    step(model, inputs()).backward()
    report = approx_fx.report(model)
    assert [(graph.before, graph.after) for graph in told.graphs] == [(g.before, g.after) for g in report.graphs]
    for graph, picture in zip(told.graphs, told.pictures, strict=True):
        assert (picture.before.moments.peak_bytes, picture.after.moments.peak_bytes) == (
            graph.peak_before,
            graph.peak_after,
        )


def test_stochastic_rounding_of_several_graphs_resumes() -> None:
    """Under torch.compile no module is known to the backend: each graph counts its calls by its first parameter."""
    torch.manual_seed(0)
    start = Blocks(breaks=(1, 2)).state_dict()
    options = {**OPTIONS, "rounding": "stochastic"}

    def gradients(steps: int, state: dict[str, Any] | None) -> tuple[Tensor, dict[str, Any]]:
        torch._dynamo.reset()
        model = Blocks(breaks=(1, 2))
        model.load_state_dict(start)
        if state is not None:
            approx_fx.load_rounding_state(model, state)
        compiled = torch.compile(model, backend="approx_fx", options=options)
        for _ in range(steps):
            model.zero_grad()
            compiled(inputs()).sum().backward()
        return flat_gradients(model), approx_fx.rounding_state(model)

    third, end = gradients(3, None)
    assert end == {"step": 3}
    resumed, again = gradients(1, gradients(2, None)[1])
    assert again == end and torch.equal(resumed, third)
    assert not torch.equal(gradients(2, None)[0], third)


class Twice(nn.Module):
    """A block that is called twice, between graph breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.block = approx_fx.convert(Block(WIDTH, 4, 0.0), **OPTIONS)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))


def test_a_module_that_is_called_twice_in_a_step_counts_twice() -> None:
    torch._dynamo.reset()
    model = Twice()
    assert held(model) == pytest.approx(approx_fx.report(model).saved_after, abs=64, rel=0.002)
    assert len(approx_fx.report(model).graphs) == 2
