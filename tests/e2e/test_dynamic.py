"""Sizes that are symbols, under Inductor: the ops' references are traced into the graph, at every width."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.ops.pack import pack_dim


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(96, 128), nn.GELU(), nn.LayerNorm(128), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 8)
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 8, 1),
    )  # fmt: skip


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "mlp": (mlp, lambda batch: torch.randn(batch, 96)),
    "cnn": (cnn, lambda batch: torch.randn(batch, 3, 12, 12)),
}
# The gradient's relative error that a width may cause in these nets of two coded layers: some 2^-K, times four.
BOUND = {1: 1.5, 3: 0.5, 4: 0.25, 8: 0.02}


@pytest.mark.slow
@pytest.mark.parametrize("bits", BOUND)
@pytest.mark.parametrize("name", NETS)
def test_every_width_trains_at_every_batch(name: str, bits: int) -> None:
    """A graph serves more than one batch: the forward is exact, and gradients are as far off as the width allows."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    build, inputs = NETS[name]
    exact = build()
    ours = approx_fx.convert(copy.deepcopy(exact), bits=bits, min_bytes=0, dynamic=True, strict=True)
    for batch in (20, 17, 32):  # of fewer than 16 images torch takes another convolution, in a graph of its own
        x = inputs(batch)
        outputs = []
        for model in (exact, ours):
            model.zero_grad()
            outputs.append(model(x))
            outputs[-1].square().mean().backward()
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)
        expected = flat_gradients(exact)
        assert (flat_gradients(ours) - expected).norm() < BOUND[bits] * expected.norm(), batch
    report = approx_fx.report(ours)
    assert len(report.graphs) < 3 and len(report.tensors) >= 2


class Elementwise(nn.Module):
    """Of two symbolic sizes and no other: sums that are not computed again, a mask, and squares."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cumsum(torch.tanh(x) * self.scale, 1)
        z = torch.cumsum(torch.relu(y + self.shift), 0)
        return z.square() * 0.01


@pytest.mark.cpp
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("compiler", ["inductor", "eager"])
def test_a_tensor_all_of_whose_sizes_are_symbols(compiler: str, bits: int) -> None:
    """A code's length is then the graph's input of that size, not the size of the batch that was traced."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    exact = Elementwise()
    ours = approx_fx.convert(copy.deepcopy(exact), bits=bits, min_bytes=0, dynamic=True, strict=True, compiler=compiler)
    for shape in ((20, 48), (37, 51), (64, 33)):
        x = torch.randn(shape)
        outputs = []
        for model in (exact, ours):
            model.zero_grad()
            outputs.append(model(x))
            outputs[-1].mean().backward()
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
        expected = flat_gradients(exact)
        assert (flat_gradients(ours) - expected).norm() < BOUND[bits] * expected.norm(), shape
    report = approx_fx.report(ours)
    assert len(report.graphs) < 3 and report.tensors  # a batch that fills its last byte has a graph of its own


def test_a_length_that_is_known_is_packed() -> None:
    shape_env = torch.fx.experimental.symbolic_shapes.ShapeEnv()
    symbol = shape_env.create_unbacked_symint()
    assert pack_dim([symbol, 16, 9], 8) == 1
    assert pack_dim([symbol, 16, 9], 4) == 1
    assert pack_dim([16, symbol], 4) == 0


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 8, 3),
    )  # fmt: skip


def group_normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GroupNorm(4, 32), nn.SiLU(), nn.Conv2d(32, 8, 3),
    )  # fmt: skip


def sequence() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 32, 5), nn.GELU(), nn.Conv1d(32, 32, 5), nn.GELU(), nn.Conv1d(32, 8, 5))


IMAGES = [(8, 3, 32, 32), (8, 3, 48, 40), (5, 3, 56, 64)]


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize(
    ("build", "shapes"),
    [(pooled, IMAGES), (group_normed, IMAGES), (sequence, [(8, 3, 256), (8, 3, 200), (5, 3, 320)])],
)
def test_lengths_and_image_sizes_that_vary_are_coded_as_fixed_ones_are(
    build: Callable[[], nn.Module], shapes: list[tuple[int, ...]], bits: int
) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    exact = build()
    ours = copy.deepcopy(exact)
    approx_fx.convert(ours, bits=bits, min_bytes=256, compiler="eager", dynamic=True, strict=True)
    for shape in shapes:
        x = torch.randn(shape)
        for model in (exact, ours):
            model.zero_grad()
            model(x).square().mean().backward()
        expected = flat_gradients(exact)
        assert (flat_gradients(ours) - expected).norm() < BOUND[bits] * expected.norm(), shape
    fixed = approx_fx.explain(exact, torch.randn(shapes[0]), bits=bits, min_bytes=256)
    assert approx_fx.report(ours).ratio >= 0.9 * fixed.ratio
