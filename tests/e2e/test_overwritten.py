"""Buffers and inputs that a forward reads and then writes to: the backward reads what the forward read."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.compare import flat_gradients


class Overwriting(nn.Module):
    """A network with a buffer. functional: read a copy, as autograd without a compiler needs it in some of these."""

    shape: tuple[int, ...] = (4, 64, 32)
    functional = False

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(32, 32), nn.Linear(32, 8)
        self.register_buffer("buffer", torch.randn(self.shape))
        self.buffer: Tensor

    def read(self) -> Tensor:
        return self.buffer.clone() if self.functional else self.buffer


class Codebook(Overwriting):
    """A codebook with a moving average, smaller than `min_bytes`."""

    shape = (16, 32)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        hidden = self.first(x)
        y = self.last(hidden * F.embedding(index, self.read()))
        self.buffer.copy_(self.buffer * 0.5 + hidden.detach()[:1] * 0.5)
        return y


class LargeCodebook(Codebook):
    """The same, larger than `min_bytes`."""

    shape = (512, 32)


class ViewOfABuffer(Overwriting):
    """What a function of a view of the buffer was computed from is gone, and the function's result is recomputed."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        y = self.last(torch.tanh(x[:, None] * self.read()[0]))
        self.buffer.copy_(self.buffer * 0.1 - 3)
        return y


class PartOfASplit(Overwriting):
    """One of the views that a split of the buffer returns."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        first, *_ = self.read().split(1)
        y = self.last(torch.tanh(x[:, None] * first[0]))
        self.buffer.copy_(self.buffer * 0.1 - 3)
        return y


class ScaledInPlace(Overwriting):
    """An in-place product."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        y = self.last(torch.tanh(x[:, None] * self.read()[0]))
        self.buffer.mul_(-0.3)
        return y


class PartlyOverwritten(Overwriting):
    """A write to a part of the buffer."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        y = self.last(torch.tanh(x[:, None] * self.read()[0]))
        self.buffer[0].fill_(0.3)
        return y


class RunningMean(Overwriting):
    """A running moment that the forward subtracts."""

    shape = (32,)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        hidden = self.first(x)
        y = self.last(torch.sigmoid(hidden - self.read()))
        with torch.no_grad():
            self.buffer.lerp_(hidden.mean(0), 0.5)
        return y


class Counter(Overwriting):
    """An input of the caller's is written to, and read before."""

    shape = (32, 32)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        y = self.last(torch.tanh(self.first(x) * F.embedding(index, self.read())))
        index.add_(1)
        return y


NETWORKS = (
    Codebook,
    LargeCodebook,
    ViewOfABuffer,
    PartOfASplit,
    ScaledInPlace,
    PartlyOverwritten,
    RunningMean,
    Counter,
)


@pytest.mark.parametrize("compiler", ["eager", pytest.param("inductor", marks=pytest.mark.cpp)])
@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_are_those_of_the_old_values(kind: type[Overwriting], compiler: str) -> None:
    model = kind()
    x, index = torch.randn(32, 32), torch.randint(0, 16, (32,))
    exact = copy.deepcopy(model)
    exact.functional = True
    approx_fx.convert(model, bits=8, compiler=compiler, strict=True)
    for _ in range(2):
        for each in (exact, model):
            each.zero_grad()
            each(x, index.clone()).square().sum().backward()
        assert F.cosine_similarity(flat_gradients(model), flat_gradients(exact), dim=0) > 0.999
        assert torch.allclose(model.buffer, exact.buffer)


def test_the_copy_is_in_the_report() -> None:
    report = approx_fx.explain(ViewOfABuffer(), torch.randn(32, 32), torch.randint(0, 16, (32,)), bits=8)
    copies = [row for row in report.kept if row.reason == "overwritten"]
    assert [row.bytes for row in copies] == [64 * 32 * 4]
