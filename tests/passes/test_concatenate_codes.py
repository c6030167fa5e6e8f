"""A concatenation of decoded values as one decoding of concatenated codes: the same gradients, fewer decoders."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.passes.concatenate_codes import concatenate_codes
from models.densenet import DenseNet


class Rows(nn.Module):
    """Concatenates ReLUs of linear layers along the features, as tiles lie."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        self.norm, self.last = nn.LayerNorm(192), nn.Linear(192, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.cat([torch.relu(layer(x)) for layer in self.layers], 1)))


def decoders(module: fx.GraphModule) -> int:
    return sum("dequantize" in str(node.target) for node in module.graph.nodes)


CASES = {
    "dense block": (lambda: DenseNet([3], 16, 10, 3), lambda: torch.randn(16, 3, 12, 12)),
    "dense block, channels-last": (
        lambda: DenseNet([3], 16, 10, 3).to(memory_format=torch.channels_last),
        lambda: torch.randn(16, 3, 12, 12).to(memory_format=torch.channels_last),
    ),
    "rows of relus": (Rows, lambda: torch.randn(32, 64)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_the_same_bit_for_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    build, inputs = CASES[name]
    exact, x = build(), inputs()
    gradients, counts = [], []

    def counted(backward: fx.GraphModule, on: bool) -> None:
        before = decoders(backward)
        if on:
            concatenate_codes(backward)
        counts.append((before, decoders(backward)))

    for on in (True, False):
        torch._dynamo.reset()
        monkeypatch.setattr(
            "approx_fx.passes.concatenate_codes.concatenate_codes", lambda backward, on=on: counted(backward, on)
        )
        model = approx_fx.convert(copy.deepcopy(exact), bits=4, min_bytes=0, strict=True)
        with torch.compiler.config.patch(force_disable_caches=True):
            model(x).square().mean().backward()
        gradients.append(flat_gradients(model))
    assert torch.equal(*gradients)
    assert counts[0][1] < counts[0][0] == counts[1][1]
