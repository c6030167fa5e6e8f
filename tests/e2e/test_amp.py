"""Mixed precision: bf16 and fp16 autocast, GradScaler, overflows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.bench.target import noise_loss
from tests.support.nets import PATTERNS, rows

OPTIONS = {"compiler": "eager", "min_bytes": 256}


def step(model: nn.Module, *inputs: Any, dtype: torch.dtype, scale: float = 1.0, **options: Any) -> nn.Module:
    torch._dynamo.reset()
    model = approx_fx.convert(copy.deepcopy(model), **{**OPTIONS, **options})
    with torch.autocast("cpu", dtype):
        loss = noise_loss(model(*inputs))
    (loss * scale).backward()
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["conv_bn_relu", "residual", "gelu_block", "swiglu", "attention", "group_norm_silu"])
def test_gradients_under_autocast(name: str, dtype: torch.dtype) -> None:
    model, inputs = PATTERNS[name]()
    ours, exact = (step(model, *inputs, dtype=dtype, bits=bits, strict=bits is not None) for bits in (8, None))
    a, b = flat_gradients(ours), flat_gradients(exact)
    assert a @ b / (a.norm() * b.norm()) > 0.999
    assert approx_fx.report(ours).ratio > 1


@pytest.mark.parametrize("name", ["gelu_block", "swiglu", "attention"])
def test_half_as_many_bytes_are_there_to_begin_with(name: str) -> None:
    """The code replaces the bf16 tensor, and no weight's cast is saved: the ratio is at least half of float32's."""
    model, _ = PATTERNS[name]()
    full = approx_fx.explain(model, rows(48), min_bytes=256)
    half = approx_fx.explain(model, rows(48), min_bytes=256, dtype=torch.bfloat16)
    assert half.ratio > 0.5 * full.ratio
    weights = {shape for p in model.parameters() if p.ndim == 2 for shape in (tuple(p.shape), tuple(p.shape)[::-1])}
    assert not {row.shape for row in (*half.tensors, *half.kept)} & weights


@pytest.mark.cpp
@pytest.mark.parametrize("where", ["weight", "input"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["gelu_block", "swiglu", "residual", "group_norm_silu", "softmax"])
def test_an_overflow_comes_out(name: str, value: float, where: str) -> None:
    """Inf or NaN in the gradients exactly where exact training has it, parameter by parameter."""
    model, inputs = PATTERNS[name]()
    if where == "weight":
        with torch.no_grad():
            next(p for p in model.parameters() if p.ndim > 1).view(-1)[0] = value
    else:
        inputs = (inputs[0].clone(),)
        inputs[0].view(-1)[0] = value
    ours, exact = (step(model, *inputs, dtype=torch.bfloat16, bits=bits) for bits in (4, None))
    for (label, p), q in zip(ours.named_parameters(), exact.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        assert bool(p.grad.isfinite().all()) == bool(q.grad.isfinite().all()), label


def test_grad_scaler_skips_a_step_that_overflows_and_takes_the_next() -> None:
    model, inputs = PATTERNS["gelu_block"]()
    model = approx_fx.convert(model, **OPTIONS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-30)
    before = copy.deepcopy(model.state_dict())
    for expected in (True, False):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = noise_loss(model(*inputs))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        unchanged = all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert unchanged is expected
    assert scaler.get_scale() == 2.0**10


class Overflowing(nn.Module):
    """An activation that fp16 cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.nn.functional.gelu(self.a(x) * 1e5))


def test_an_fp16_activation_overflows_alike() -> None:
    ours, exact = (step(Overflowing(), rows(), dtype=torch.float16, bits=bits) for bits in (4, None))
    for p, q in zip(ours.parameters(), exact.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        assert bool(p.grad.isfinite().all()) == bool(q.grad.isfinite().all())
