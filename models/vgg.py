"""VGG-16: Simonyan & Zisserman 2014, arXiv:1409.1556, with batch norm (Ioffe & Szegedy 2015, arXiv:1502.03167)."""

from __future__ import annotations

from torch import nn

from models.factory import Example, seeded
from models.layers import classifier, conv, initialize, norm_relu

# Table 1, configuration D: each stage's convolution widths; a 2x2 max pool follows each stage.
CONFIGURATION_D = [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3]


class VGG(nn.Sequential):
    """3x3 convolutions, each with batch norm and ReLU, in stages that halve the image; one linear layer at the end."""

    def __init__(self, stages: list[list[int]], num_classes: int, in_channels: int) -> None:
        super().__init__()
        inputs = in_channels
        for stage in stages:
            for width in stage:
                self.extend([conv(inputs, width, 3), norm_relu(width)])
                inputs = width
            self.append(nn.MaxPool2d(2))
        self.append(classifier(inputs, num_classes))
        initialize(self)


def vgg16_bn_net(num_classes: int = 10, in_channels: int = 3) -> VGG:
    """VGG-16 for CIFAR, table 1 column D: (N, in_channels, H, W) with H, W >= 32 -> (N, num_classes).

    14,724,042 parameters by default. The convolutions have no bias, the batch norms being there for it, and one
    linear layer stands for the paper's three.
    """
    return VGG(CONFIGURATION_D, num_classes, in_channels)


def vgg16_bn(batch: int = 128) -> Example:
    """Seeded `vgg16_bn_net` (table 1): (batch, 3, 32, 32) float32 -> logits (batch, 10); 14,724,042 parameters."""
    return seeded(vgg16_bn_net, (batch, 3, 32, 32))
