"""Residual networks: He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from models.factory import Example, seeded
from models.layers import classifier, conv, initialize, norm_relu


def basic(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two 3x3 convolutions, figure 5 left: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
    return nn.Sequential(
        conv(inputs, outputs, 3, stride), norm_relu(outputs), conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
    )


def bottleneck(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """1x1, strided 3x3, 1x1, inner width outputs / 4 (figure 5 right; stride as in v1.5): shapes as in `basic`."""
    width = outputs // 4
    return nn.Sequential(
        conv(inputs, width, 1), norm_relu(width),
        conv(width, width, 3, stride), norm_relu(width),
        conv(width, outputs, 1), nn.BatchNorm2d(outputs),
    )  # fmt: skip


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x)); the shortcut is a projection (option B) only where the shape changes."""

    def __init__(self, branch: Callable[[int, int, int], nn.Module], inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = branch(inputs, outputs, stride)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return out


class ResNet(nn.Sequential):
    """Stem, stages of `Residual` blocks and classifier; every stage but the first halves the image.

    `stages` lists (number of blocks, output width); `stem_width` is the width that `stem` delivers.
    """

    def __init__(
        self,
        stem: nn.Module,
        stem_width: int,
        branch: Callable[[int, int, int], nn.Module],
        stages: list[tuple[int, int]],
        num_classes: int,
    ) -> None:
        super().__init__(stem)
        inputs = stem_width
        for stage, (blocks, outputs) in enumerate(stages):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                self.append(Residual(branch, inputs, outputs, stride))
                inputs = outputs
        self.append(classifier(inputs, num_classes))
        initialize(self)


def resnet20_net(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-20 for CIFAR, section 4.2: (N, in_channels, H, W) -> (N, num_classes); 272,474 parameters by default."""
    stem = nn.Sequential(conv(in_channels, 16, 3), norm_relu(16))
    return ResNet(stem, 16, basic, [(3, 16), (3, 32), (3, 64)], num_classes)


def resnet18_cifar_net(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-18, table 1, stem 3x3: (N, in_channels, H, W) -> (N, num_classes); 11,173,962 parameters by default."""
    stem = nn.Sequential(conv(in_channels, 64, 3), norm_relu(64))
    return ResNet(stem, 64, basic, [(2, 64), (2, 128), (2, 256), (2, 512)], num_classes)


def resnet50_net(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """ResNet-50, table 1: (N, in_channels, H, W) -> (N, num_classes); 25,557,032 parameters by default."""
    stem = nn.Sequential(conv(in_channels, 64, 7, 2), norm_relu(64), nn.MaxPool2d(3, 2, padding=1))
    return ResNet(stem, 64, bottleneck, [(3, 256), (4, 512), (6, 1024), (3, 2048)], num_classes)


def resnet152_net(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """ResNet-152, table 1: (N, in_channels, H, W) -> (N, num_classes); 60,192,808 parameters by default."""
    stem = nn.Sequential(conv(in_channels, 64, 7, 2), norm_relu(64), nn.MaxPool2d(3, 2, padding=1))
    return ResNet(stem, 64, bottleneck, [(3, 256), (8, 512), (36, 1024), (3, 2048)], num_classes)


def resnet20(batch: int = 128) -> Example:
    """Seeded `resnet20_net` (section 4.2): (batch, 3, 32, 32) float32 -> logits (batch, 10); 272,474 parameters."""
    return seeded(resnet20_net, (batch, 3, 32, 32))


def resnet18_cifar(batch: int = 128) -> Example:
    """Seeded `resnet18_cifar_net` (table 1): (batch, 3, 32, 32) float32 -> (batch, 10); 11,173,962 parameters."""
    return seeded(resnet18_cifar_net, (batch, 3, 32, 32))


def resnet50(batch: int = 32) -> Example:
    """Seeded `resnet50_net` (table 1): (batch, 3, 224, 224) float32 -> (batch, 1000); 25,557,032 parameters."""
    return seeded(resnet50_net, (batch, 3, 224, 224))


def resnet152(batch: int = 32) -> Example:
    """Seeded `resnet152_net` (table 1): (batch, 3, 224, 224) float32 -> (batch, 1000); 60,192,808 parameters."""
    return seeded(resnet152_net, (batch, 3, 224, 224))
