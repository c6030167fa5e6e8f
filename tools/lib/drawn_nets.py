"""Small networks that are drawn at random out of all supported ops, and data that are drawn to be hard to code."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

C, F = 16, 64  # channels of an image, features of a row


class Apply(nn.Module):
    """A function without parameters as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Gated(nn.Module):
    """silu(gate(x)) up(x)."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.gate, self.up = make(), make()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.gate(x)) * self.up(x)


class Attend(nn.Module):
    """Self-attention of four heads, by torch's op or written out."""

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


class MaskedAttend(nn.Module):
    """Attention written out; a quarter of the keys is masked by `value`, and nearer ones are preferred by a bias."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.qkv, self.value = nn.Linear(F, 3 * F), value

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        place = torch.arange(x.shape[1])
        masked = place[None] > 3 * x.shape[1] // 4
        bias = torch.where(masked, self.value, 0.0) - 2.0 * (place[:, None] - place[None]).abs()
        return (torch.softmax(q @ k.transpose(-1, -2) * 0.25 + bias, -1) @ v).transpose(1, 2).flatten(-2)


class Shut(nn.Module):
    """A gate around sigmoid(at): almost shut, or almost open."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.gate, self.at = nn.Linear(F, F), at

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.gate(x) + self.at) * x


def linear() -> nn.Module:
    """A linear layer that keeps the number of features."""
    return nn.Linear(F, F)


def convolution(groups: int = 1) -> nn.Module:
    """A convolution that keeps the number of channels and the image's size."""
    return nn.Conv2d(C, C, 3, padding=1, groups=groups)


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
    "masked_inf": lambda: MaskedAttend(-math.inf),
    "masked_large": lambda: MaskedAttend(-1e4),
    "shut": lambda: Shut(-6.0),
    "open": lambda: Shut(6.0),
    "sine": lambda: Apply(lambda x: torch.sin(10 * x)),
    "log_softmax": lambda: nn.Sequential(nn.LogSoftmax(-1), linear()),
    "shift": lambda: Apply(lambda x: torch.roll(x, 1, 1)),
    **ACTIVATIONS,
}


# Layers whose codes are not right without a look at the data.
HARD = frozenset(["masked_inf", "masked_large", "shut", "open", "sine"])


def _channels(x: Tensor) -> tuple[int, ...]:
    return (1, x.shape[1], 1, 1) if x.ndim == 4 else (1, 1, x.shape[-1])


def _loud_channel(x: Tensor) -> Tensor:
    scale = torch.ones(_channels(x))
    scale.view(-1)[3] = 1000.0
    return x * scale


# name -> Gaussian values of the network's input shape -> data
DATA: dict[str, Callable[[Tensor], Tensor]] = {
    "bell": lambda x: x,
    "heavy tails": lambda x: x / (torch.randn_like(x).square() + torch.randn_like(x).square()).div(2).sqrt(),
    "sparse": lambda x: (torch.rand_like(x) < 0.01) * 3.0,
    "almost constant": lambda x: 1 + 1e-3 * x,
    "huge mean": lambda x: 100 + x,
    "loud channel": _loud_channel,
    "mixed channels": lambda x: x * 10 ** (4 * torch.rand(_channels(x)) - 2),
    "mixed rows": lambda x: x * 10 ** (4 * torch.rand(x.shape[0], *[1] * (x.ndim - 1)) - 2),
    "tiny": lambda x: 1e-4 * x,
    "large": lambda x: 100 * x,
}


def network(names: list[str], image: bool, seed: int, data: str = "bell") -> tuple[nn.Module, Tensor]:
    """The drawn layers between two that have weights, and a batch of the data that `data` names."""
    torch.manual_seed(seed)
    table, weighted = (IMAGE, convolution) if image else (ROWS, linear)
    layers = [weighted()]
    for name in names:
        layers += [table[name](), weighted()] if name in ACTIVATIONS else [table[name]()]
    x = torch.randn(4, C, 8, 8) if image else torch.randn(4, 16, F)
    return nn.Sequential(*layers, weighted()), DATA[data](x)
