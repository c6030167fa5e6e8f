"""A ReLU is written in as many parts as a byte holds of its codes: one loop, and the same bits."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, fx, nn
from torch._inductor import graph as inductor_graph

import approx_fx
from approx_fx.inductor.packed_store import PackedStoreRegion
from approx_fx.inductor.switches import VARIABLE
from approx_fx.joint import packed_stores as analysis
from approx_fx.ops import OPS
from approx_fx.peak.dry_run import generated_code
from approx_fx.peak.timeline import accesses
from models.preact_resnet import PreActResNet, bottleneck

OURS = {op.overload for op in OPS.values()}


def chain(last: nn.Module) -> nn.Sequential:
    """A ReLU that a convolution reads, and one that `last` does."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), last,
    )  # fmt: skip


def step(
    model: nn.Module, inputs: Tensor, bits: int, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Tensor], list[str], list[fx.Graph]]:
    """Loss and gradients, the code that Inductor wrote, and the graphs that it wrote it of."""
    torch._dynamo.reset()
    graphs: list[fx.Graph] = []
    run = inductor_graph.GraphLowering.run
    with monkeypatch.context() as patch, torch._inductor.config.patch(force_disable_caches=True):
        patch.setattr(
            inductor_graph.GraphLowering,
            "run",
            lambda self, *args: graphs.append(self.module.graph) or run(self, *args),
        )
        if whole:
            patch.setenv(VARIABLE, "packed_stores")
        with generated_code() as sources:
            loss = approx_fx.convert(model, bits=bits)(inputs).float().square().mean()
            loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return [loss.detach(), *gradients], sources, graphs


def moved(sources: list[str]) -> int:
    """Bytes that the forward's loops read and write."""
    return sum(access.read + access.written for phase, access in accesses(sources) if phase == "forward")


@pytest.mark.cpp
@pytest.mark.parametrize(
    ("bits", "batch", "last", "expected"),
    [
        (4, 4, nn.Conv2d(32, 8, 3), [2, 2]),
        (2, 8, nn.MaxPool2d(2), [4, 4]),
        (4, 4, nn.AdaptiveAvgPool2d(1), [2]),  # a mean sums what it computes: that ReLU is never written
    ],
)
def test_what_is_written_in_parts(
    bits: int, batch: int, last: nn.Module, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, x = chain(last), torch.randn(batch, 3, 12, 12)
    whole, before, _ = step(model, x, bits, True, monkeypatch)
    found, after, graphs = step(model, x, bits, False, monkeypatch)
    regions = [node.target for node in graphs[0].nodes if isinstance(node.target, PackedStoreRegion)]
    assert [region.count for region in regions] == expected
    assert all(map(torch.equal, found, whole))
    # The codes as bytes, one for each value, are neither written nor read.
    values = [16 * 10 * 10, 32 * 8 * 8][: len(expected)]
    assert moved(before) - moved(after) >= 2 * batch * sum(values)


@pytest.mark.cpp
def test_half_precision_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = chain(nn.Conv2d(32, 8, 3)), torch.randn(4, 3, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        whole, before, _ = step(model, x, 4, True, monkeypatch)
        found, after, _ = step(model, x, 4, False, monkeypatch)
    assert all(map(torch.equal, found, whole))
    assert moved(after) < moved(before)


@pytest.mark.cpp
def test_a_stream_that_is_not_laid_out_yet_is_stored_as_what_it_is_computed_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sums of a stage's first block: Inductor decides their layout later, channels-last as the convolutions'."""
    torch.manual_seed(0)
    model, x = PreActResNet(bottleneck, 2, (32, 64, 128), 10, 3), torch.randn(8, 3, 16, 16)
    _, sources, _ = step(model, x, 4, False, monkeypatch)
    buffer = r"empty_strided_cpu\(\(\d+, (\d+), \d+, \d+\), \(\d+, (\d+), \d+, (\d+)\), torch.float32"
    images = re.findall(buffer, sources[0])
    large = [strides for channels, *strides in images if int(channels) >= 8 and strides != ["1", channels]]
    assert images and {channels_step for channels_step, _ in large} <= {"1"}


@pytest.mark.parametrize(
    ("bits", "batch", "dim", "count"),
    [(4, 6, 0, 2), (2, 8, 0, 4), (8, 4, 0, 1), (3, 8, 0, 0), (4, 3, 0, 0), (2, 2, 0, 0), (2, 6, 0, 0), (4, 6, 1, 0)],
)
def test_how_many_parts(bits: int, batch: int, dim: int, count: int) -> None:
    """As many as a byte holds codes; none where a byte's last codes are padding, or another dimension is packed."""
    quantize, graph = torch.ops.approx_fx.quantize_channel.default, fx.Graph()
    x, grid = torch.randn(batch, 8, 2, 2), torch.ones(4, 8)
    nodes = [graph.placeholder("x"), graph.placeholder("grid")]
    node = graph.call_function(quantize, (*nodes, None, bits, 1, dim))
    nodes[0].meta["val"], node.meta["val"] = x, quantize(x, grid, None, bits, 1, dim)
    assert analysis.codes_per_byte(node, OURS) == count
    assert analysis.codes_per_byte(node, []) == analysis.codes_per_byte(nodes[0], OURS) == 0
