"""Gradients' sums in two stages, and sums of whole tensors that are kept: Inductor's C++ with both."""

from __future__ import annotations

import contextlib
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


class Scaled(nn.Module):
    """gelu(w mix(x) + b), with a w and a b for each of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, channels)
        self.weight, self.bias = nn.Parameter(torch.rand(channels) + 0.5), nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.mix(x) * self.weight + self.bias)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (lambda: Blocks(1), (32, 3, 32, 32)),
    "rows": (lambda: Scaled(72), (4096, 72)),
    "batch and rows": (lambda: Scaled(88), (16, 197, 88)),
}


def _trained(net: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    build, shape = NETS[net]
    return build().to(dtype), torch.randn(shape).to(dtype)


def _gradients(net: str, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], str]:
    """The parameters' gradients, and the source of the backward."""
    model, x = _trained(net, dtype)
    approx_fx.convert(model, bits=4)
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True), generated_code() as sources:
        output = model(x)
        output.backward(torch.randn_like(output) + 1)
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None], sources[1]


@pytest.mark.parametrize("net", NETS)
def test_gradients_are_summed_in_two_stages(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sums, of the same decoded values, in another order: 2^15 values one by one are off by 2^-9 at most."""
    found, source = _gradients(net)
    monkeypatch.setattr(inductor, "staged", lambda *_: contextlib.nullcontext())
    once, plain = _gradients(net)
    assert source.count("for(") > plain.count("for(")
    for mine, other in zip(found, once, strict=True):
        assert torch.allclose(mine, other, rtol=0, atol=float(other.abs().max()) * 2**-12)


def test_bfloat16_is_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows' sums are kept in float32."""
    found, source = _gradients("rows", torch.bfloat16)
    monkeypatch.setattr(inductor, "staged", lambda *_: contextlib.nullcontext())
    once, _ = _gradients("rows", torch.bfloat16)
    assert "empty_strided_cpu((128, 72), (72, 1), torch.float32)" in source
    assert "empty_strided_cpu((128, 72), (72, 1), torch.bfloat16)" not in source
    for mine, other in zip(found, once, strict=True):
        assert mine.dtype == torch.bfloat16
        assert torch.allclose(mine, other, rtol=2**-7, atol=2**-7 * float(other.abs().max()))


@pytest.mark.parametrize("net", NETS)
def test_what_trains_exactly_is_left_alone(net: str) -> None:
    results = []
    for backend in ("inductor", "approx_fx"):
        torch._dynamo.reset()
        model, x = _trained(net)
        options = {"bits": None} if backend == "approx_fx" else None
        output = torch.compile(model, backend=backend, options=options)(x)
        output.backward(torch.randn_like(output) + 1)
        results.append([parameter.grad for parameter in model.parameters()])
    for theirs, mine in zip(*results, strict=True):
        assert theirs is not None and mine is not None and torch.equal(mine, theirs)


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
