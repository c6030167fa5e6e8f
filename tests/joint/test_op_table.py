"""The table of ops: its names are torch's, its rows are true of the ops, and facts follow from them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from approx_fx.joint import lower_bounds as low
from approx_fx.joint.facts import Facts, find_facts
from approx_fx.joint.graph import classify
from approx_fx.joint.op_table import KINK, SMOOTH, TABLE, _table
from tests.support.capture import capture

# Targets of graphs that are no ops of the dispatcher.
NO_SCHEMA = {
    "getitem",
    "flex_attention",
    "flex_attention_backward",
    "grouped_mm_fallback",
    "grouped_mm_fallback_backward",
}
# Ops of optional parts of torch, which a CPU build lacks.
OPTIONAL = {"mkldnn_rnn_layer", "mkldnn_rnn_layer_backward"}
# What an op of one value takes beside it.
OTHERS: dict[str, tuple[Any, ...]] = {"pow": (3,), "clamp": (-1.0, 1.0), "clamp_min": (-1.0,), "clamp_max": (1.0,)}
BINARY = {"minimum", "maximum"}
CONTINUOUS = sorted(
    name for name, row in TABLE.items() if row.recompute in (SMOOTH.recompute, KINK.recompute) and name not in BINARY
)


def call(name: str, x: Tensor) -> Tensor:
    return getattr(torch.ops.aten, name)(x, *OTHERS.get(name, ()))


def test_every_name_is_an_op_of_torch() -> None:
    import torch._inductor.inductor_prims

    known = {schema.name.split("::")[1] for schema in torch._C._jit_get_all_schemas()}
    assert TABLE.keys() - known - NO_SCHEMA - OPTIONAL == set()


@pytest.mark.parametrize("name", CONTINUOUS)
@given(x=st.floats(-3, 3), step=st.floats(1e-6, 1e-3))
def test_a_small_error_in_is_a_small_error_out(name: str, x: float, step: float) -> None:
    """Away from the poles that the row names: x is moved to 1.25 and more, for a logit to the middle of (0, 1)."""
    if TABLE[name].poles:
        x = 0.4 + x / 15 if name == "logit" else 1.25 + abs(x)
    before, after = call(name, torch.tensor([x, x + step], dtype=torch.float64)).tolist()
    assert abs(after - before) <= 64 * step


@pytest.mark.parametrize("name", [name for name in CONTINUOUS if TABLE[name].lower_bound is low.zero])
def test_no_result_is_below_its_bound(name: str) -> None:
    assert float(call(name, torch.linspace(-9, 9, 1001, dtype=torch.float64)).min()) >= 0


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.output_range])
def test_every_result_is_in_its_range(name: str) -> None:
    least, most = TABLE[name].output_range or (0, 0)
    results = call(name, torch.linspace(-99, 99, 1001))
    assert float(results.min()) == pytest.approx(least) and float(results.max()) == pytest.approx(most)


def test_an_op_has_one_row() -> None:
    with pytest.raises(ValueError, match="add has two rows in the table of ops"):
        _table((("add mul", SMOOTH), ("sub add", KINK)))


class Facts4(nn.Module):
    """A value of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        image = self.conv(x)
        scores = image.flatten(2).masked_fill(image.flatten(2) > 1, -1e9)
        return scores.softmax(-1).sum() + (image / (1 + torch.exp(-image))).sum() + image.std()


def facts_of(model: nn.Module, *inputs: Tensor) -> tuple[fx.GraphModule, Facts]:
    found: list[tuple[fx.GraphModule, Facts]] = []
    capture(
        model, *inputs, run=False, look=lambda joint, count: found.append((joint, find_facts(classify(joint, count))))
    )
    return found[0]


def test_facts_follow_from_the_rows() -> None:
    module, facts = facts_of(Facts4(), torch.randn(2, 3, 4, 4))
    by_name = {node.name: node for node in module.graph.nodes}
    assert by_name["convolution"] in facts.images
    assert by_name["where"] in facts.masked_fills and by_name["convolution"] not in facts.masked_fills
    assert by_name["amax"] in facts.statistics and by_name["convolution"] not in facts.statistics
    denominator = next(node for node in by_name.values() if node.name.startswith("add") and facts.at_least(node) == 1)
    assert any(source.name.startswith("exp") for source in denominator.all_input_nodes)
    assert facts.at_least(2) == 2 and facts.at_least(by_name["convolution"]) == -math.inf


class Deep(nn.Module):
    """A filled value behind many ops that leave its numbers far from all others."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        x = (x * weight).masked_fill(x > 0, -1e9)
        for _ in range(40):
            x = (x + 1) * 0.5
        return x.exp() * weight


def test_facts_have_no_depth() -> None:
    module, facts = facts_of(Deep(), torch.randn(8, 8), torch.randn(8, 8, requires_grad=True))
    last = next(
        node for node in reversed(module.graph.nodes) if node.name.startswith("exp") and node in facts.lower_bounds
    )
    assert last.all_input_nodes[0] in facts.masked_fills
