"""The backward of an attention whose query and key are coded computes probabilities that sum to 1."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import approx_fx
from approx_fx.joint.op_table import ATTENTION, name_of
from approx_fx.passes.normalise_attention import _without_dropout
from tests.support.capture import capture

SHAPE = (4, 4, 64, 16)  # sequences, heads, tokens, features


class Attention(nn.Module):
    """Attention of a query and a key that are `factor` times as large as usual. options: of torch's attention."""

    def __init__(self, factor: float, **options: Any) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
        self.factor, self.options = factor, options

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, 16)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(self.factor * q, self.factor * k, v, **self.options)
        return self.out(y.transpose(1, 2).flatten(-2))


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 64, 64, generator=generator), torch.randn(4, 64, 64, generator=generator)


def gradients(model: nn.Module) -> list[Tensor]:
    """The gradients with respect to what makes query, key and value."""
    x, weight = inputs()
    torch.manual_seed(1)
    (model(x) * weight).sum().backward()
    parameter = model.qkv.weight.grad
    assert parameter is not None
    return list(parameter.chunk(3))


def attentions(model: nn.Module, **options: Any) -> list[str]:
    """The attention forwards that the backward calls."""
    seen = capture(model, inputs()[0], min_bytes=64, compiler="eager", **options)
    assert seen.done is not None
    return [name_of(node) for node in seen.done.backward.graph.nodes if name_of(node) in ATTENTION]


BIAS = torch.where(torch.ones(64, 64).tril() > 0, 0.0, float("-inf"))


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"attn_mask": BIAS}, {"scale": 0.2}],
    ids=["plain", "causal", "bias", "scale"],
)
@pytest.mark.parametrize(("factor", "bits", "cosine"), [(1.0, 4, 0.98), (6.0, 4, 0.5), (6.0, 8, 0.99), (12.0, 8, 0.9)])
def test_large_scores_do_not_make_large_gradients(
    options: dict[str, Any], factor: float, bits: int, cosine: float
) -> None:
    """With the saved log-sum-exp the gradient was 20 times too large at a factor of 6 in 4 bits, 10^8 times at 12."""
    torch.manual_seed(0)
    model = Attention(factor, **options)
    exact = gradients(model)
    model.zero_grad()
    approx_fx.convert(model, bits=bits, min_bytes=64, compiler="eager", check=None, strict=True)
    coded = gradients(model)
    assert approx_fx.report(model).ratio > 2
    for one, other in zip(coded, exact, strict=True):
        assert float(one.norm() / other.norm()) == pytest.approx(1, abs=0.1)
        assert float(torch.cosine_similarity(one.flatten(), other.flatten(), 0)) > cosine


def test_one_forward_is_added_where_query_or_key_is_coded() -> None:
    assert attentions(Attention(1.0), bits=4) == ["_scaled_dot_product_flash_attention_for_cpu"]
    assert attentions(Attention(1.0), bits=4, exact=("qkv", "")) == []


def test_the_log_sum_exp_is_not_saved() -> None:
    report = approx_fx.explain(Attention(1.0), inputs()[0], bits=4, min_bytes=64)
    assert report.tensors
    assert not [row for row in (*report.kept, *report.tensors) if row.shape == SHAPE[:3]]


def test_the_added_forward_has_no_dropout() -> None:
    """The saved output, which has the dropout, stays what the backward reads."""
    graph = fx.Graph()
    query, key, value = (graph.placeholder(name) for name in "qkv")
    attention = torch.ops.aten._scaled_dot_product_efficient_attention.default
    node = graph.call_function(attention, (query, key, value, None, True, 0.5, True), {"scale": 0.1})
    assert _without_dropout(node) == ([query, key, value, None, True, 0.0, True], {"scale": 0.1}, 0.5)
    flash = graph.call_function(torch.ops.aten._scaled_dot_product_flash_attention.default, (query, key, value))
    assert _without_dropout(flash) == ([query, key, value], {}, 0.0)
