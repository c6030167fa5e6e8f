"""Gradients against exact ones, under bounds that follow from the step size; NaN and Inf; exactness of the rest."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.bench.target import noise_loss
from approx_fx.ops.channel import step_in_sigmas
from tests.support.nets import PATTERNS, ConvBnRelu, Residual, images


def step(model: nn.Module, *inputs: Any, **options: Any) -> tuple[Tensor, Tensor, nn.Module]:
    """(loss, gradients) of one step of a copy of the model; strict, so that a graph left exact is an error."""
    torch._dynamo.reset()
    model = copy.deepcopy(model)
    strict = {"strict": True} if options.get("bits", 4) is not None else {}
    approx_fx.convert(model, **{"compiler": "eager", "min_bytes": 256, **strict, **options})
    loss = noise_loss(model(*inputs))
    loss.backward()
    return loss.detach(), flat_gradients(model), model


def gaussian_error(bits: int, grid: str) -> float:
    """Deviation of a unit Gaussian's quantization error: D / sqrt(12) inside the window, and what is clipped outside.

    2 E[(z - t)+^2] = 2 ((1 + t^2) Q(t) - t phi(t)), t the window's half width, half a bin less where it is not centred.
    """
    size = step_in_sigmas(bits, grid)
    t = (2 ** (bits - 1) - (0.5 if grid == "gaussian" else 1.0)) * size
    tail = 0.5 * math.erfc(t / 2**0.5)
    clipped = 2 * ((1 + t * t) * tail - t * math.exp(-t * t / 2) / (2 * math.pi) ** 0.5)
    return (size**2 / 12 + clipped) ** 0.5


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_weight_gradient_within_half_a_step(bits: int) -> None:
    """dW = g^T r is linear in r, so |dW~ - dW| <= |g|^T (step / 2), with the step of each row's scale."""
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 16))
    x = torch.randn(32, 64)
    _, _, exact = step(model, x, bits=None)
    _, _, ours = step(model, x, bits=bits)
    hidden = torch.relu(model[0](x)).detach()
    noise = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    _, scale = torch.ops.approx_fx.quantize_relu(hidden, None, bits, 1, 96, [], 0)
    half = 0.5 * scale.float().reshape(32, 1) * (hidden > 0)
    bound = noise.abs().T @ half
    error = (ours[2].weight.grad - exact[2].weight.grad).abs()
    assert (error <= bound * 1.0001 + 1e-6).all()
    assert error.max() > 0.01 * bound.max()
    # the mask is exact, so the layer below gets exact gradients
    assert torch.equal(ours[0].weight.grad, exact[0].weight.grad)


@pytest.mark.cpp
@pytest.mark.parametrize("grid", ["gaussian", "blpa"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", ["conv_bn_relu", "residual", "pre_activation", "conv_bn_relu6", "conv_bn_hardswish"])
def test_relative_error_follows_the_step(name: str, bits: int, grid: str) -> None:
    """The gradient's relative error is about one quantization error of a Gaussian; a few of them meet in each."""
    model, inputs = PATTERNS[name]()
    exact_loss, exact, _ = step(model, *inputs, bits=None)
    loss, ours, _ = step(model, *inputs, bits=bits, grid=grid)
    assert torch.equal(loss, exact_loss)
    error = ((ours - exact).norm() / exact.norm()).item()
    assert 0 < error <= 1.5 * gaussian_error(bits, grid)


@pytest.mark.cpp
def test_gaussian_grid_beats_the_papers() -> None:
    model, inputs = PATTERNS["residual"]()
    _, exact, _ = step(model, *inputs, bits=None)
    errors = {}
    for grid in ("gaussian", "blpa"):
        _, ours, _ = step(model, *inputs, bits=8, grid=grid)
        errors[grid] = (ours - exact).norm()
    assert errors["gaussian"] < 0.5 * errors["blpa"]


@pytest.mark.cpp
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["conv_bn_relu", "residual", "plain", "no_relu"])
def test_nan_and_inf_reach_the_gradients(name: str, bad: float) -> None:
    model, (x,) = PATTERNS[name]()
    x = x.clone()
    x[0, 0, 3, 3] = bad
    _, exact, _ = step(model, x, bits=None)
    _, ours, _ = step(model, x, bits=4)
    assert not exact.isfinite().all()
    assert not ours.isfinite().all()


@pytest.mark.cpp
@pytest.mark.parametrize("name", [name for name in PATTERNS if name != "dropout"])
def test_eager_exact_mode_is_autograd(name: str) -> None:
    """Same loss bit for bit; gradients up to the order of sums, which decompositions change."""
    model, inputs = PATTERNS[name]()
    loss, ours, _ = step(model, *inputs, bits=None)
    reference = copy.deepcopy(model)
    torch._dynamo.reset()
    theirs = noise_loss(torch.compile(reference, backend="aot_eager_decomp_partition")(*inputs))
    theirs.backward()
    assert torch.equal(loss, theirs.detach())
    assert torch.allclose(ours, flat_gradients(reference), rtol=1e-4, atol=1e-5)


@pytest.mark.cpp
def test_inductor_forward_and_exact_mode_are_bitwise_torch_compile() -> None:
    model = Residual()
    reference = copy.deepcopy(model)
    torch._dynamo.reset()
    loss = noise_loss(torch.compile(reference)(images()))
    loss.backward()
    exact_loss, exact, _ = step(model, images(), bits=None, compiler="inductor")
    our_loss, ours, _ = step(model, images(), bits=4, compiler="inductor")
    assert torch.equal(exact_loss, loss.detach())
    assert torch.equal(exact, flat_gradients(reference))
    assert torch.equal(our_loss, loss.detach())
    cosine = ours @ exact / (ours.norm() * exact.norm())
    assert 0.99 < cosine < 1


@pytest.mark.cpp
def test_inductor_and_eager_agree() -> None:
    model = ConvBnRelu()
    _, eager, _ = step(model, images(), bits=4)
    _, fused, _ = step(model, images(), bits=4, compiler="inductor")
    assert (eager - fused).norm() / eager.norm() < 1e-2
