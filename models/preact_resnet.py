"""Pre-activation networks: He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from models.factory import Example, seeded
from models.layers import classifier, conv, initialize, norm_relu

Branch = Callable[[int, int, int], nn.Module]


def basic(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two 3x3 convolutions behind a pre-activation: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
    return nn.Sequential(conv(inputs, outputs, 3, stride), norm_relu(outputs), conv(outputs, outputs, 3))


def bottleneck(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """1x1, 3x3, 1x1 behind a pre-activation, inner width outputs / 4; the stride as in the authors' code."""
    width = outputs // 4
    return nn.Sequential(
        conv(inputs, width, 1, stride), norm_relu(width),
        conv(width, width, 3), norm_relu(width),
        conv(width, outputs, 1),
    )  # fmt: skip


class PreActBlock(nn.Module):
    """x + branch(preact(x)): (N, inputs, H, W) -> (N, outputs, H / stride, W / stride).

    Where the width changes, a 1x1 projection of the shared pre-activation takes the identity's place (appendix).
    """

    def __init__(self, branch: Branch, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.preact = norm_relu(inputs)
        self.branch = branch(inputs, outputs, stride)
        self.projection = conv(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.preact(x)
        shortcut = x if self.projection is None else self.projection(active)
        out: Tensor = shortcut + self.branch(active)
        return out


class PreActResNet(nn.Sequential):
    """Stem of width 16, three stages of `blocks` blocks with output widths `widths`, final activation, classifier."""

    def __init__(
        self, branch: Branch, blocks: int, widths: tuple[int, int, int], num_classes: int, in_channels: int
    ) -> None:
        super().__init__(conv(in_channels, 16, 3))
        inputs = 16
        for outputs, stage_stride in zip(widths, (1, 2, 2), strict=True):
            for block in range(blocks):
                self.append(PreActBlock(branch, inputs, outputs, stage_stride if block == 0 else 1))
                inputs = outputs
        self.extend([norm_relu(inputs), classifier(inputs, num_classes)])
        initialize(self)


def preact_resnet(depth: int, num_classes: int = 10, in_channels: int = 3) -> PreActResNet:
    """Pre-activation ResNet of depth 9n + 2 for CIFAR, section 4: (N, in_channels, H, W) -> (N, num_classes)."""
    blocks, rest = divmod(depth - 2, 9)
    if rest or blocks < 1:
        raise ValueError(f"depth must be 9n + 2 with n >= 1, got {depth}")
    return PreActResNet(bottleneck, blocks, (64, 128, 256), num_classes, in_channels)


def preact_basic20_net(num_classes: int = 10, in_channels: int = 3) -> PreActResNet:
    """Depth 20 of 3x3 pairs, as section 3.1's ResNet-110: (N, in_channels, H, W) -> (N, num_classes).

    272,282 parameters by default.
    """
    return PreActResNet(basic, 3, (16, 32, 64), num_classes, in_channels)


def preact_basic8_net(num_classes: int = 10, in_channels: int = 3) -> PreActResNet:
    """Depth 8 of 3x3 pairs: (N, in_channels, H, W) -> (N, num_classes); 77,850 parameters."""
    return PreActResNet(basic, 1, (16, 32, 64), num_classes, in_channels)


def preact_resnet20_net(num_classes: int = 10, in_channels: int = 3) -> PreActResNet:
    """Depth 20 (section 4): (N, in_channels, H, W) -> (N, num_classes); by default 219,482 parameters."""
    return preact_resnet(20, num_classes, in_channels)


def preact_resnet164_net(num_classes: int = 10, in_channels: int = 3) -> PreActResNet:
    """Depth 164 (section 4): (N, in_channels, H, W) -> (N, num_classes); by default 1,703,258 parameters."""
    return preact_resnet(164, num_classes, in_channels)


def preact_resnet20(batch: int = 64) -> Example:
    """Seeded `preact_resnet20_net` (section 4): (batch, 3, 32, 32) float32 -> (batch, 10); 219,482 parameters."""
    return seeded(preact_resnet20_net, (batch, 3, 32, 32))


def preact_resnet164(batch: int = 64) -> Example:
    """Seeded `preact_resnet164_net` (section 4): (batch, 3, 32, 32) float32 -> (batch, 10); 1,703,258 parameters."""
    return seeded(preact_resnet164_net, (batch, 3, 32, 32))
