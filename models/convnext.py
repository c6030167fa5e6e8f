"""ConvNeXt: Liu et al. 2022, "A ConvNet for the 2020s", section 2 and figure 4."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.factory import Example, seeded


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of an image: (N, C, H, W) -> (N, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Depthwise 7x7, layer norm, GELU network of four times the width, scaled (0.000001 at first), on the stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> (N, width, H, W)."""
        y = self.scale * self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Sequential):
    """(N, in_channels, H, W) -> (N, num_classes); H and W divisible by 32."""

    def __init__(self, stages: list[tuple[int, int]], num_classes: int, in_channels: int) -> None:
        width = stages[0][1]
        super().__init__(nn.Conv2d(in_channels, width, 4, 4), ChannelNorm(width, eps=1e-6))
        for index, (blocks, outputs) in enumerate(stages):
            if index > 0:
                self.extend([ChannelNorm(width, eps=1e-6), nn.Conv2d(width, outputs, 2, 2)])
                width = outputs
            self.extend([Block(width) for _ in range(blocks)])
        self.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(width, eps=1e-6)])
        self.append(nn.Linear(width, num_classes))


def convnext_tiny_net(num_classes: int = 1000, in_channels: int = 3) -> ConvNeXt:
    """ConvNeXt-T: 28,589,128 parameters by default."""
    return ConvNeXt([(3, 96), (3, 192), (9, 384), (3, 768)], num_classes, in_channels)


def convnext_tiny(batch: int = 8) -> Example:
    """Seeded `convnext_tiny_net`: (batch, 3, 224, 224) float32 -> logits (batch, 1000)."""
    return seeded(convnext_tiny_net, (batch, 3, 224, 224))
