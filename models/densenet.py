"""DenseNet-BC: Huang et al. 2016, "Densely Connected Convolutional Networks", arXiv:1608.06993."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.factory import Example, seeded
from models.layers import classifier, conv, initialize, norm_relu


class DenseLayer(nn.Module):
    """Append `growth` feature maps, made through a 1x1 bottleneck: (N, C, H, W) -> (N, C + growth, H, W)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            norm_relu(inputs), conv(inputs, 4 * growth, 1),
            norm_relu(4 * growth), conv(4 * growth, growth, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.features(x)], dim=1)


def transition(inputs: int, outputs: int) -> nn.Sequential:
    """Compress the width and halve the image, section 3: (N, inputs, H, W) -> (N, outputs, H / 2, W / 2)."""
    return nn.Sequential(norm_relu(inputs), conv(inputs, outputs, 1), nn.AvgPool2d(2))


class DenseNet(nn.Sequential):
    """3x3 stem of twice the growth, dense blocks with halving transitions between them, classifier."""

    def __init__(self, blocks: list[int], growth: int, num_classes: int, in_channels: int) -> None:
        width = 2 * growth
        super().__init__(conv(in_channels, width, 3))
        for block, layers in enumerate(blocks):
            if block > 0:
                self.append(transition(width, width // 2))
                width //= 2
            for _ in range(layers):
                self.append(DenseLayer(width, growth))
                width += growth
        self.extend([norm_relu(width), classifier(width, num_classes)])
        initialize(self)


def densenet121_net(num_classes: int = 10, in_channels: int = 3) -> DenseNet:
    """DenseNet-121 blocks (table 1) on the CIFAR stem (section 3): (N, in_channels, H, W) -> (N, num_classes).

    6,956,298 parameters by default; H, W >= 8.
    """
    return DenseNet([6, 12, 24, 16], 32, num_classes, in_channels)


def densenet121(batch: int = 64) -> Example:
    """Seeded `densenet121_net` (table 1): (batch, 3, 32, 32) float32 -> logits (batch, 10); 6,956,298 parameters."""
    return seeded(densenet121_net, (batch, 3, 32, 32))
