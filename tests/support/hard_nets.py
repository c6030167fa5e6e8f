"""Networks and data on which a code of few bits is far off unless something is done: each a kind that was reported.

Every function returns (model, inputs). The output's mean square is the loss, unless the output is a scalar.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Hard = tuple[nn.Module, tuple[Any, ...]]


def conv_bn_relu(inputs: int, outputs: int, **options: Any) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, **options), nn.BatchNorm2d(outputs), nn.ReLU()]


def sparse_images(lit: float = 0.005, level: float = 3.0) -> Hard:
    """Images that are 0 almost everywhere, through batch norms: most of a channel is one value, the rest far off."""
    model = nn.Sequential(*conv_bn_relu(1, 16), *conv_bn_relu(16, 16), nn.Conv2d(16, 4, 3, padding=1))
    return model, ((torch.rand(16, 1, 32, 32) < lit).float() * level,)


def faint_channels() -> Hard:
    """A convolution whose last 28 of 32 channels are 10^-4 of the others."""
    conv = nn.Conv2d(3, 32, 3, padding=1)
    with torch.no_grad():
        conv.weight[4:] *= 1e-4
        conv.bias[4:] *= 1e-4  # type: ignore[index]
    return nn.Sequential(conv, nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 8, 3)), (torch.randn(8, 3, 16, 16),)


class LoudFeature(nn.Module):
    """Linear, RMSNorm, Linear, SiLU; one of 256 features is a thousand times the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(64, 256), nn.RMSNorm(256), nn.Linear(256, 64)
        with torch.no_grad():
            self.first.weight[7] *= 1000

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.second(self.norm(self.first(x))))


class Towers(nn.Module):
    """Two towers, normalised, logits at a temperature of 0.02, cross entropy both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleList(nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = (F.normalize(tower(item), dim=-1) for tower, item in zip(self.towers, (x, y), strict=True))
        logits, target = a @ b.T / 0.02, torch.arange(len(x))
        return F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)


class Siren(nn.Module):
    """Three layers of sin(20 W x)."""

    def __init__(self, frequency: float = 20.0) -> None:
        super().__init__()
        self.frequency = frequency
        self.layers = nn.ModuleList(nn.Linear(inputs, 64) for inputs in (2, 64, 64))
        self.last = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(self.frequency * layer(x))
        return self.last(x)


class DistanceBias(nn.Module):
    """Attention written out with a distance bias of up to `steepest` a step, and `future` for what is not seen."""

    def __init__(self, steepest: float = 32.0, future: float = -65504.0, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.qkv, self.out, self.heads, self.future = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            heads,
            future,
        )
        self.register_buffer("slopes", steepest / 2.0 ** torch.arange(heads))

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        place = torch.arange(t)
        distance = (place[None] - place[:, None]).to(x.dtype)
        bias = self.slopes[:, None, None] * distance  # type: ignore[index]
        bias = bias + torch.where(distance > 0, self.future, 0.0)
        scores = q @ k.transpose(-1, -2) / math.sqrt(c // self.heads) + bias
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, c))


class GeM(nn.Module):
    """Generalised mean pooling; p is learned unless it is fixed."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 32, 3, padding=1)
        self.p = nn.Parameter(torch.tensor(3.0)) if learned else 3.0
        self.head = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.body(x).clamp(min=1e-6).pow(self.p).mean((-2, -1)).pow(1.0 / self.p)
        return self.head(pooled)


class Decay(nn.Module):
    """exp(-c) * cumsum(v * exp(c)): a linear recurrence with learned decays."""

    def __init__(self, gate: float = 0.1) -> None:
        super().__init__()
        self.gates, self.values, self.out, self.gate = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 8), gate

    def forward(self, x: Tensor) -> Tensor:
        c = (F.softplus(self.gates(x)) * self.gate).cumsum(1)
        return self.out(torch.exp(-c) * (self.values(x) * torch.exp(c)).cumsum(1))


class MaskedScores(nn.Module):
    """Softmax and log-softmax of the same scores, with an additive mask that is given as an input."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-1, -2) / math.sqrt(32) + mask
        p = scores.softmax(-1)
        entropy = -(p * scores.log_softmax(-1).clamp(min=-50)).sum(-1)
        return (p @ self.v(x)).square().mean() + entropy.mean()


class Gates(nn.Module):
    """Gates that are almost shut: sigmoid or tanh of values around `at`."""

    def __init__(self, function: Callable[[Tensor], Tensor], at: float) -> None:
        super().__init__()
        self.gate, self.value, self.out, self.function = (
            nn.Linear(32, 64),
            nn.Linear(32, 64),
            nn.Linear(64, 8),
            function,
        )
        nn.init.constant_(self.gate.bias, at)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(self.gate(x)) * self.value(x))


class OutlierStream(nn.Module):
    """A residual stream two channels of which lie at +-a, as in trained language models, through layer norms."""

    def __init__(self, width: int, a: float) -> None:
        super().__init__()
        self.first = nn.Linear(32, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)) for _ in range(2)
        )
        self.last = nn.Linear(width, 8)
        with torch.no_grad():
            self.first.bias[3], self.first.bias[width // 2] = a, -a

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for norm, block in zip(self.norms, self.blocks, strict=False):
            h = h + block(norm(h))
        return self.last(self.norms[-1](h))


def _tokens(count: int = 8, length: int = 64, width: int = 64) -> tuple[Any, ...]:
    return (torch.randn(count, length, width),)


def _mask(value: float) -> Tensor:
    mask = torch.zeros(8, 64, 64)
    mask[:, :, 48:] = value
    return mask


# name -> builder of (model, inputs)
TABLE: dict[str, Callable[[], Hard]] = {
    "sparse images": sparse_images,
    "faint channels": faint_channels,
    "loud feature": lambda: (LoudFeature(), _tokens()),
    "temperature": lambda: (Towers(), (torch.randn(128, 64), torch.randn(128, 64))),
    "sin(20 W x)": lambda: (Siren(), (torch.rand(512, 2) * 2 - 1,)),
    "distance bias": lambda: (DistanceBias(), _tokens()),
}
KINDS: dict[str, Callable[[], Hard]] = {
    "GeM, learned p": lambda: (GeM(True), (torch.randn(16, 3, 16, 16),)),
    "GeM, p = 3": lambda: (GeM(False), (torch.randn(16, 3, 16, 16),)),
    "decay": lambda: (Decay(), _tokens(width=32)),
    "larger decay": lambda: (Decay(0.5), _tokens(width=32)),
    "-inf as input": lambda: (MaskedScores(), (*_tokens(width=32), _mask(-math.inf))),
    "-1e4 as input": lambda: (MaskedScores(), (*_tokens(width=32), _mask(-1e4))),
    "sigmoid at -4.6": lambda: (Gates(torch.sigmoid, -4.6), _tokens(width=32)),
    "sigmoid at -7": lambda: (Gates(torch.sigmoid, -7.0), _tokens(width=32)),
    "tanh at 3": lambda: (Gates(torch.tanh, 3.0), _tokens(width=32)),
    "1 % of pixels": lambda: sparse_images(0.01),
    "0.3 % of pixels": lambda: sparse_images(0.003),
    **{
        f"outliers at {a}, width {width}": lambda width=width, a=a: (  # type: ignore[misc]
            OutlierStream(width, a), _tokens(width=32),
        )
        for width in (128, 768)
        for a in (30, 100, 300)
    },
}  # fmt: skip
