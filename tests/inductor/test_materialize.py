"""What several read is written once, or computed by each: sums of tensors that are kept, and a forward left alone."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.inductor.switches import VARIABLE
from approx_fx.peak.dry_run import generated_code


class Blocks(nn.Module):
    """x + branch(x), so many times: (N, 3, H, W) -> (N, width, H, W)."""

    def __init__(self, count: int, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)) for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x)
        return x


@pytest.mark.cpp
@pytest.mark.parametrize(
    ("width", "batch", "size"), [(32, 32, 32), (64, 64, 32), (128, 32, 32), (256, 8, 32), (512, 16, 8)]
)
def test_a_forward_is_left_alone(width: int, batch: int, size: int) -> None:
    """The output is torch.compile's, bit for bit, whether threads share a sum, or channels."""
    results = []
    for backend in ("inductor", "approx_fx"):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model, x = Blocks(2, width), torch.randn(batch, 3, size, size)
        results.append(torch.compile(model, backend=backend)(x))
    assert torch.equal(*results)


@pytest.mark.cpp
def test_a_residual_stream_is_kept_not_added_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block's kernel then is the same one; without, each has another number of addends."""

    def kernels(count: int) -> int:
        model = Blocks(count)
        approx_fx.convert(model)
        torch._dynamo.reset()
        with torch._inductor.config.patch(force_disable_caches=True), generated_code() as sources:
            model(torch.randn(32, 3, 16, 16)).sum().backward()
        return len(re.findall(r"^cpp_fused\w+ = async_compile", sources[0], re.MULTILINE))

    assert kernels(3) == kernels(2)
    monkeypatch.setenv(VARIABLE, "materialize")
    assert kernels(3) > kernels(2)
