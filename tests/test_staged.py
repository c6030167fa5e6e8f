"""Gradients' sums in two stages, and sums of whole tensors that are kept: Inductor's C++ with both."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Sequence

import pytest
import torch
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


class Scaled(nn.Module):
    """gelu(w x + b), with a w and a b for each of the channels, which lie on `dim`."""

    def __init__(self, channels: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = shape
        self.weight, self.bias = nn.Parameter(torch.rand(channels) + 0.5), nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x * self.weight.reshape(*self.shape) + self.bias.reshape(*self.shape))


VALUES = {
    "channels-last": (lambda: torch.randn(32, 24, 20, 20).to(memory_format=torch.channels_last), (-1, 1, 1)),
    "rows": (lambda: torch.randn(4096, 72), (-1,)),
    "batch and rows": (lambda: torch.randn(16, 197, 88), (-1,)),
}


def _gradients(values: str, bits: int | None = 4, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], str]:
    """The gradients of w and b, and the source of the backward."""
    torch.manual_seed(0)
    make, shape = VALUES[values]
    x = make().to(dtype)
    model = Scaled(x.shape[1 if len(shape) > 1 else -1], shape).to(dtype)
    approx_fx.convert(model, bits=bits)
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True), generated_code() as sources:
        output = model(x)
        output.backward(torch.randn_like(output) + 1)
    return [value for parameter in model.parameters() if (value := parameter.grad) is not None], sources[1]


@pytest.mark.parametrize("values", VALUES)
def test_gradients_are_summed_in_two_stages(values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sums, of the same decoded values, in another order."""
    found, source = _gradients(values)
    monkeypatch.setattr(inductor, "staged", lambda *_: contextlib.nullcontext())
    once, plain = _gradients(values)
    assert source != plain
    for mine, other in zip(found, once, strict=True):
        assert torch.allclose(mine, other, rtol=0, atol=float(other.abs().max()) * 2**-18)


def test_bfloat16_is_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 rows' sums in bfloat16 would be off by as much as one of them."""
    found, source = _gradients("rows", dtype=torch.bfloat16)
    monkeypatch.setattr(inductor, "staged", lambda *_: contextlib.nullcontext())
    once, plain = _gradients("rows", dtype=torch.bfloat16)
    assert source != plain
    for mine, other in zip(found, once, strict=True):
        assert mine.dtype == torch.bfloat16
        assert torch.allclose(mine, other, rtol=2**-7, atol=0)


def test_what_trains_exactly_is_left_alone() -> None:
    found, _ = _gradients("rows", bits=None)
    torch.manual_seed(0)
    x = VALUES["rows"][0]()
    model = Scaled(72, (-1,))
    output = torch.compile(model)(x)
    output.backward(torch.randn_like(output) + 1)
    assert all(torch.equal(mine, p.grad) for mine, p in zip(found, model.parameters(), strict=True))


def test_a_forward_is_left_alone() -> None:
    """Batch statistics of 2^19 values a channel-last map: the loss is torch.compile's, bit for bit."""
    torch.manual_seed(0)
    model, x = Blocks(1), torch.randn(32, 3, 32, 32)
    twin = copy.deepcopy(model)
    assert torch.equal(approx_fx.convert(model)(x).square().mean(), torch.compile(twin)(x).square().mean())


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

    assert kernels(3) == kernels(2)
    monkeypatch.setattr(inductor, "sums_kept", contextlib.nullcontext)
    assert kernels(3) > kernels(2)
