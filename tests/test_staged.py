"""Sums over all but the innermost dimension, in two stages, and sums that are kept: Inductor's C++ with both."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence

import pytest
import torch
from nets import ConvBnRelu, images
from torch import Tensor, nn

import approx_fx
from approx_fx.host import inductor, staged
from approx_fx.host.staged import Plan
from approx_fx.host.wrapper import generated_code


def _channels_last(*shape: int) -> tuple[int, ...]:
    return torch.empty(*shape, device="meta").to(memory_format=torch.channels_last).stride()


def _plain(*shape: int) -> tuple[int, ...]:
    return torch.empty(*shape, device="meta").stride()


@pytest.mark.parametrize(
    ("sizes", "strides", "reduced", "expected"),
    [
        ((64, 64, 32, 32), _channels_last, (0, 2, 3), Plan((64, 64, 32, 32), (3,), (0, 2))),
        ((64, 256, 8, 8), _channels_last, (0, 2, 3), Plan((64, 256, 8, 8), (3,), (0, 2))),
        ((64, 512, 4, 4), _channels_last, (0, 2, 3), Plan((64, 512, 4, 4), (3, 2), (0,))),
        ((64, 256, 56, 56), _channels_last, (0, 2, 3), Plan((64, 256, 56, 2, 28), (4,), (0, 2, 3))),
        ((4096, 384), _plain, (0,), Plan((256, 16, 384), (1,), (0,))),
        ((16, 197, 384), _plain, (0, 1), Plan((16, 197, 384), (0,), (1,))),
        ((3, 211, 1024), _plain, (0, 1), Plan((3, 211, 1024), (1,), (0,))),
        ((997, 384), _plain, (0,), None),  # a prime number of rows
        ((64, 64, 32, 32), _plain, (0, 2, 3), None),  # the innermost is summed over
        ((4096, 384), _plain, (1,), None),
        ((16, 64, 8, 8), _channels_last, (0, 2, 3), None),  # few values
    ],
)
def test_what_is_summed_first(
    sizes: Sequence[int], strides: Callable[..., Sequence[int]], reduced: Sequence[int], expected: Plan | None
) -> None:
    assert staged.plan(sizes, strides(*sizes), reduced) == expected


def _compiled(function: Callable[..., object], *inputs: Tensor) -> tuple[list[Tensor], str]:
    """What the function gives, compiled, and the source that gives it."""
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True), generated_code() as sources:
        found = torch.compile(lambda *values: list(function(*values)), backend="approx_fx")(*inputs)
    return found, "".join(sources)


VALUES = {
    "channels-last": (lambda: torch.randn(32, 24, 20, 20).to(memory_format=torch.channels_last), [0, 2, 3]),
    "rows": (lambda: torch.randn(4096, 72), [0]),
    "batch and rows": (lambda: torch.randn(16, 197, 88), [0, 1]),
    "last as -1": (lambda: torch.randn(32, 24, 20, 20).to(memory_format=torch.channels_last), [0, -1, -2]),
}


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("values", VALUES)
def test_sums_and_variances(values: str, keepdim: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values around 1000: the squares' sum alone would leave no digit of the variance."""
    torch.manual_seed(0)
    make, dims = VALUES[values]
    x = make() + 1000.0
    x.requires_grad_()

    def function(x: Tensor) -> tuple[Tensor, ...]:
        return x.sum(dims, keepdim), *torch.var_mean(x, dims, correction=0, keepdim=keepdim), x.var(dims)

    found, source = _compiled(function, x)
    monkeypatch.setattr(inductor, "staged", contextlib.nullcontext)
    assert source != _compiled(function, x)[1]
    for got, exact in zip(found, function(x.double()), strict=True):
        assert got.shape == exact.shape and got.dtype == torch.float32
        # a value of 1000 is known to 2^-14, and so is its distance from the mean
        assert torch.allclose(got.double(), exact, rtol=2**-12, atol=0)


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 2**-8), (torch.float64, 2**-40)])
def test_other_dtypes_are_rounded_once(dtype: torch.dtype, error: float) -> None:
    """A row's sum in bfloat16 would be off by that much already."""
    x = (torch.randn(4096, 72, dtype=dtype) + 4).requires_grad_()
    found, _ = _compiled(lambda x: (*torch.var_mean(x, [0]), x.sum(0)), x)
    for got, exact in zip(found, (*torch.var_mean(x.double(), [0]), x.double().sum(0)), strict=True):
        assert got.dtype == dtype
        assert torch.allclose(got.double(), exact, rtol=error, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_channel(bad: float) -> None:
    x = torch.randn(32, 24, 20, 20).to(memory_format=torch.channels_last)
    x[3, 5, 7, 11] = bad
    x.requires_grad_()
    (total, variance), _ = _compiled(lambda x: (x.sum([0, 2, 3]), x.var([0, 2, 3])), x)
    exact = x.sum([0, 2, 3])
    assert torch.equal(total.isfinite(), exact.isfinite()) and torch.equal(total.isnan(), exact.isnan())
    assert torch.equal(variance.isnan(), torch.arange(24) == 5)


class Blocks(nn.Module):
    """x + branch(x), so many times: (N, 3, H, W) -> (N, 32, H, W)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)) for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x)
        return x


def test_a_residual_stream_is_kept_not_added_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block's kernel then is the same one; without, each has another number of addends."""

    def kernels(count: int) -> int:
        model = Blocks(count)
        approx_fx.convert(model)
        torch._dynamo.reset()
        with torch._inductor.config.patch(force_disable_caches=True), generated_code() as sources:
            model(torch.randn(32, 3, 16, 16)).sum().backward()
        return len(re.findall(r"^cpp_fused\w+ = async_compile", sources[0], re.MULTILINE))

    seen: list[Sequence[int]] = []
    plan = staged.plan
    monkeypatch.setattr(staged, "plan", lambda *given: seen.append(given[1]) or plan(*given))
    assert kernels(3) == kernels(2)
    assert seen and all(strides[1] == 1 for strides in seen)  # channels lie innermost in what is kept, too
    monkeypatch.setattr(inductor, "sums_kept", contextlib.nullcontext)
    assert kernels(3) > kernels(2)


def test_one_stage_where_sizes_are_symbols() -> None:
    """A dynamic batch compiles, and is exact."""
    model = ConvBnRelu()
    x = images()
    torch._dynamo.mark_dynamic(x, 0)
    expected = model(x)
    assert torch.allclose(torch.compile(model, backend="approx_fx")(x), expected, atol=1e-4)
