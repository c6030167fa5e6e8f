"""Small networks, one for each structure that the pass has to recognise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


class ConvBnRelu(nn.Module):
    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.norm, self.second = conv(3, 16), nn.BatchNorm2d(16), conv(16, 16)
        self.activation = activation or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.activation(self.norm(self.first(x))))


class Residual(nn.Module):
    """Post-activation: conv, BN, ReLU, conv, BN, sum, ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = conv(3, 16), nn.BatchNorm2d(16)
        self.a, self.norm_a, self.b, self.norm_b = conv(16, 16), nn.BatchNorm2d(16), conv(16, 16), nn.BatchNorm2d(16)
        self.last = conv(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        y = self.norm_b(self.b(torch.relu(self.norm_a(self.a(x)))))
        return self.last(torch.relu(x + y))


class PreActivation(nn.Module):
    """BN, ReLU, conv, sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.conv = conv(3, 16), nn.BatchNorm2d(16), conv(16, 16)
        self.last_norm, self.last = nn.BatchNorm2d(16), conv(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(torch.relu(self.norm(x)))
        return self.last(torch.relu(self.last_norm(x)))


class NoRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = conv(3, 16), nn.BatchNorm2d(16), conv(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)))


class Plain(nn.Module):
    """Convolutions with ReLU and no normalisation, then sigmoid and tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 16), conv(16, 16), conv(16, 16), conv(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(torch.tanh(self.c(torch.sigmoid(self.b(torch.relu(self.a(x)))))))


class Dropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 128), nn.Linear(128, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.dropout(torch.relu(self.a(x)), 0.5, True))


class GeluBlock(nn.Module):
    """A transformer's second half: layer norm, linear, GELU, linear, residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.a, self.b = (
            nn.Linear(64, 64),
            nn.LayerNorm(64),
            nn.Linear(64, 256),
            nn.Linear(256, 64),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.b(nn.functional.gelu(self.a(self.norm(x))))


class SwiGLU(nn.Module):
    """RMS norm, silu(gate) * up, down, residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(64, 64), nn.RMSNorm(64, eps=1e-5)
        self.gate, self.up, self.down = nn.Linear(64, 128), nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.norm(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


class Attention(nn.Module):
    """Self-attention of 4 heads on rows taken as one sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(64), nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, 16)).permute(1, 0, 2)[None] for part in self.qkv(self.norm(x)).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y[0].permute(1, 0, 2).flatten(1))


class Softmax(nn.Module):
    """Attention weights written out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 128), nn.Linear(128, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.softmax(self.a(x), -1))


class GroupNormSilu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = conv(3, 16), nn.GroupNorm(4, 16), conv(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(nn.functional.silu(self.norm(self.a(x))))


class InstanceNormPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.pool, self.b = conv(3, 16), nn.InstanceNorm2d(16), nn.MaxPool2d(2), conv(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(nn.functional.gelu(self.pool(self.norm(self.a(x)))))


def images(batch: int = 8, size: int = 16) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def rows(batch: int = 64) -> Tensor:
    return torch.randn(batch, 64, generator=torch.Generator().manual_seed(1))


class Bottleneck(nn.Module):
    """ResNet-50's block: three convolutions and a sum, with a fourth on the way around or without."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        shapes = [(inputs, inner, 1), (inner, inner, 3), (inner, outputs, 1)]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, k, padding=k // 2, bias=False) for i, o, k in shapes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _ in shapes)
        around = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.around = around if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y))
            y = y.relu() if index < 2 else y
        return (y + self.around(x)).relu()


def bottlenecks(last: bool, batch: int, size: int, width: int = 8, more: int = 1) -> tuple[nn.Module, tuple[Tensor]]:
    stem = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    blocks = [Bottleneck(inputs, width, 4 * width) for inputs in [width, 4 * width] + [4 * width] * more]
    model = nn.Sequential(*stem, *blocks, nn.Conv2d(4 * width, width, 1, bias=False))
    order = torch.channels_last if last else torch.contiguous_format
    return model.to(memory_format=order), (torch.randn(batch, 3, size, size).to(memory_format=order),)


PATTERNS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "conv_bn_relu": lambda: (ConvBnRelu(), (images(),)),
    "conv_bn_relu6": lambda: (ConvBnRelu(nn.ReLU6()), (images(),)),
    "conv_bn_hardswish": lambda: (ConvBnRelu(nn.Hardswish()), (images(),)),
    "conv_bn_inplace": lambda: (ConvBnRelu(nn.ReLU(inplace=True)), (images(),)),
    "residual": lambda: (Residual(), (images(),)),
    "pre_activation": lambda: (PreActivation(), (images(),)),
    "no_relu": lambda: (NoRelu(), (images(),)),
    "plain": lambda: (Plain(), (images(),)),
    "dropout": lambda: (Dropout(), (rows(),)),
    "gelu_block": lambda: (GeluBlock(), (rows(),)),
    "swiglu": lambda: (SwiGLU(), (rows(),)),
    "attention": lambda: (Attention(), (rows(),)),
    "softmax": lambda: (Softmax(), (rows(),)),
    "group_norm_silu": lambda: (GroupNormSilu(), (images(),)),
    "instance_norm_pool": lambda: (InstanceNormPool(), (images(),)),
}

# No comparison decides anything in these.
SMOOTH = (
    "no_relu",
    "gelu_block",
    "swiglu",
    "attention",
    "softmax",
    "group_norm_silu",
    "instance_norm_pool",
)
