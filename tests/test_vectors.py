"""Codes are converted vector by vector in Inductor's C++, also where a loop takes several vectors a step."""

from __future__ import annotations

import contextlib
import inspect

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.codegen.cpp import CppVecKernel

import approx_fx
from approx_fx.host import inductor, vectors
from approx_fx.host.wrapper import generated_code

SLOW = ("at::vec::convert<int32_t,2,uint8_t,1>", "at::vec::convert<float,2,int32_t,2>")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 32))


def step() -> tuple[str, list[Tensor]]:
    """The code of a compiled step, and its gradients."""
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True), generated_code() as sources:
        model = approx_fx.convert(net(), bits=4)
        model(torch.linspace(-2, 2, 24 * 512).reshape(24, 512)).square().sum().backward()
    return "\n".join(sources), [parameter.grad for parameter in model.parameters()]


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="needs vectors of AVX2 or AVX-512",
)
def test_codes_are_converted_vector_by_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without our expressions the code has ATen's element by element; with them it does not, and no bit differs."""
    quick, gradients = step()
    assert not any(slow in quick for slow in SLOW) and "VectorizedN<float,2> r" in quick
    monkeypatch.setattr(inductor, "converting", contextlib.nullcontext)
    slow, expected = step()
    assert all(each in slow for each in SLOW)
    assert all(map(torch.equal, gradients, expected))


def test_other_conversions_are_atens() -> None:
    assert vectors.converted("x", torch.int32, torch.float32, (1, 1)) is None
    assert vectors.converted("x", torch.uint8, torch.int32, (1, 1)) is None
    assert vectors.converted("x", torch.uint8, torch.int32, (2, 4)) is None
    assert vectors.converted("x", torch.float32, torch.uint8, (2, 1)) is None


def test_the_method_that_is_replaced() -> None:
    parameters = list(inspect.signature(CppVecKernel.get_to_dtype_expr).parameters)
    assert parameters[:4] == ["self", "src", "dtype", "src_dtype"]
