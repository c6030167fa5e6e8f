"""Random small networks out of all supported ops: gradients, masks, index selections and every decoded value."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.bench.target import noise_loss
from tests.support.capture import capture

C, F = 16, 64  # channels of an image, features of a row


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Gated(nn.Module):
    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.gate, self.up = make(), make()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.gate(x)) * self.up(x)


class Attend(nn.Module):
    def __init__(self, written_out: bool) -> None:
        super().__init__()
        self.qkv, self.written_out = nn.Linear(F, 3 * F), written_out

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if self.written_out:
            y = torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1) @ v
        else:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).flatten(-2)


def linear() -> nn.Module:
    return nn.Linear(F, F)


def convolution(**options: int) -> nn.Module:
    return nn.Conv2d(C, C, 3, padding=1, **options)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "hardsigmoid": nn.Hardsigmoid,
    "prelu": nn.PReLU,
    "square": lambda: Apply(lambda x: 0.1 * x * x + x),
    "quotient": lambda: Apply(lambda x: x / (1 + x.square())),
    "where": lambda: Apply(lambda x: torch.where(x > 0.5, 2 * x, x)),
    "clamp": lambda: Apply(lambda x: x.clamp(-1, 2)),
    "root": lambda: Apply(lambda x: torch.sqrt(x.square() + 0.1)),
}
IMAGE: dict[str, Callable[[], nn.Module]] = {
    "conv": convolution,
    "depthwise": lambda: convolution(groups=C),
    "batch_norm": lambda: nn.BatchNorm2d(C),
    "group_norm": lambda: nn.GroupNorm(4, C),
    "instance_norm": lambda: nn.InstanceNorm2d(C, affine=True),
    "max_pool": lambda: nn.MaxPool2d(3, 1, 1),
    "avg_pool": lambda: nn.AvgPool2d(3, 1, 1),
    "halves": lambda: Apply(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "residual": lambda: Residual(nn.Sequential(nn.BatchNorm2d(C), nn.ReLU(), convolution())),
    "gated": lambda: Gated(convolution),
    **ACTIVATIONS,
}
ROWS: dict[str, Callable[[], nn.Module]] = {
    "linear": linear,
    "layer_norm": lambda: nn.LayerNorm(F),
    "rms_norm": lambda: nn.RMSNorm(F, eps=1e-5),
    "attention": lambda: Attend(False),
    "written_out": lambda: Attend(True),
    "residual": lambda: Residual(nn.Sequential(nn.LayerNorm(F), linear(), nn.GELU(), linear())),
    "gated": lambda: Gated(linear),
    "log_softmax": lambda: nn.Sequential(nn.LogSoftmax(-1), linear()),
    "shift": lambda: Apply(lambda x: torch.roll(x, 1, 1)),
    **ACTIVATIONS,
}


def network(names: list[str], image: bool, seed: int) -> tuple[nn.Module, Tensor]:
    """The drawn layers between two that have weights; the input has something for each of them to decide."""
    torch.manual_seed(seed)
    table, weighted = (IMAGE, convolution) if image else (ROWS, linear)
    layers = [weighted()]
    for name in names:
        layers += [table[name](), weighted()] if name in ACTIVATIONS else [table[name]()]
    x = torch.randn(4, C, 8, 8) if image else torch.randn(4, 16, F)
    return nn.Sequential(*layers, weighted()), x


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[str], bool, int]:
    image = draw(st.booleans())
    names = draw(st.lists(st.sampled_from(sorted(IMAGE if image else ROWS)), min_size=1, max_size=5))
    return names, image, draw(st.integers(0, 1000))


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-12))


# A tile of 256 Gaussian values is about 6 deviations wide: in 8 bits the error's deviation is 6 / 256 / sqrt(12) of
# theirs. Norms and products may amplify an error by a small factor each, and errors of all anchors add up.
STEP = 6 / 256 / 12**0.5
AMPLIFIED = 8


@pytest.mark.cpp
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks())
def test_random_networks(drawn: tuple[list[str], bool, int]) -> None:
    names, image, seed = drawn
    model, x = network(names, image, seed)
    torch._dynamo.reset()
    seen = capture(copy.deepcopy(model), x, bits=8, min_bytes=256, compiler="eager")
    assert seen.done is not None
    before, (_, backward) = seen.run_joint(), seen.calls
    for clone, value in seen.done.copies.items():
        own, mine = before.get(value.name), backward.get(clone.name)
        if not isinstance(own, Tensor) or not isinstance(mine, Tensor):
            continue
        if not own.dtype.is_floating_point:
            assert torch.equal(mine, own), f"{value.name} is a decision, and its copy differs ({names})"
        else:
            assert relative(mine, own) < AMPLIFIED * STEP, f"{value.name} is decoded wrong ({names})"
    exact, ours = copy.deepcopy(model), copy.deepcopy(model)
    torch._dynamo.reset()
    approx_fx.convert(ours, bits=8, min_bytes=256, compiler="eager", strict=True)
    for net in (exact, ours):
        noise_loss(net(x)).backward()
    report = approx_fx.report(ours)
    assert report.ratio >= 1
    bound = AMPLIFIED * STEP * (1 + len(report.tensors)) ** 0.5
    assert relative(flat_gradients(ours), flat_gradients(exact)) < bound, names


def test_a_wrong_gradient_is_seen() -> None:
    """The bound has teeth: a decoder that is off by a step and a half is caught."""
    from approx_fx.encode.group import Group

    honest = Group.decode

    def shifted(self: Group, build: object, stored: object, value: object) -> object:
        return build.call(torch.ops.aten.mul.Tensor, honest(self, build, stored, value), 1.5)  # type: ignore[attr-defined, arg-type]

    Group.decode = shifted  # type: ignore[method-assign, assignment]
    try:
        test_random_networks.hypothesis.inner_test((["gelu", "linear"], False, 0))  # type: ignore[attr-defined]
    except AssertionError:
        return
    finally:
        Group.decode = honest  # type: ignore[method-assign]
    raise AssertionError("a wrong decoder went unnoticed")
