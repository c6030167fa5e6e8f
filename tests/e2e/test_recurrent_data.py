"""Recurrent layers with their loss inside, on data that are hard to code, in one graph and in two."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.support.measured_step import trained, worst_cosine

DATA = ("bell", "outlier feature", "sparse", "shut gates")


class Tagger(nn.Module):
    """(N, T, 64), labels (N * T) -> a loss, by two recurrent layers; breaks: the graph breaks between them."""

    def __init__(self, kind: type[nn.RNNBase], breaks: bool, shut: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 8)
        self.a, self.b = kind(64, 64, batch_first=True), kind(64, 64, batch_first=True)
        self.breaks = breaks
        for layer in (self.a, self.b) if shut else ():
            with torch.no_grad():
                layer.bias_ih_l0[:64] -= 6  # type: ignore[index,operator]

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        x = self.a(self.first(x))[0]
        if self.breaks:
            torch._dynamo.graph_break()
        return nn.functional.cross_entropy(self.last(self.b(x)[0]).flatten(0, 1), labels)


@pytest.mark.parametrize("breaks", [False, True])
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_gradients(kind: type[nn.RNNBase], data: str, breaks: bool) -> None:
    def build() -> tuple[nn.Module, tuple[Tensor, ...]]:
        x = torch.randn(16, 64, 64)
        if data == "outlier feature":
            x[..., 3] *= 300
        if data == "sparse":
            x = (torch.rand_like(x) < 0.005).float() * 3
        return Tagger(kind, breaks, data == "shut gates"), (x, torch.randint(8, (16 * 64,)))

    torch._dynamo.reset()
    assert worst_cosine(*trained(build, 4)) > (0.95, "")
