"""MobileNetV2: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", table 2."""

from __future__ import annotations

from torch import Tensor, nn

from models.factory import Example, seeded
from models.layers import classifier, initialize

# expansion, output channels, repetitions, stride of the first
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution without bias, batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Inverted(nn.Module):
    """Table 1: expand, depthwise 3x3, project; a residual sum where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        layers = [*conv_norm(inputs, width, 1), nn.ReLU6(inplace=True)] if expansion != 1 else []
        layers += [*conv_norm(width, width, 3, stride, groups=width), nn.ReLU6(inplace=True)]
        self.body = nn.Sequential(*layers, *conv_norm(width, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return x + self.body(x) if self.residual else self.body(x)


class MobileNetV2(nn.Sequential):
    """(N, in_channels, H, W) -> (N, num_classes)."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(*conv_norm(in_channels, 32, 3, 2), nn.ReLU6(inplace=True))
        width = 32
        for expansion, outputs, count, stride in STAGES:
            for index in range(count):
                self.append(Inverted(width, outputs, stride if index == 0 else 1, expansion))
                width = outputs
        self.extend([*conv_norm(width, 1280, 1), nn.ReLU6(inplace=True), classifier(1280, num_classes)])
        initialize(self)


def mobilenet_v2_net(num_classes: int = 1000, in_channels: int = 3) -> MobileNetV2:
    """MobileNetV2 of width 1: 3,504,872 parameters by default."""
    return MobileNetV2(num_classes, in_channels)


def mobilenet_v2(batch: int = 8) -> Example:
    """Seeded `mobilenet_v2_net`: (batch, 3, 224, 224) float32 -> logits (batch, 1000)."""
    return seeded(mobilenet_v2_net, (batch, 3, 224, 224))
