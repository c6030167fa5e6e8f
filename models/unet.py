"""U-Net: Ronneberger, Fischer & Brox 2015, with group norm and SiLU, as diffusion models use it (Ho et al. 2020)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.factory import Example, seeded


class Double(nn.Sequential):
    """Twice convolution 3x3, group norm, SiLU: (N, inputs, H, W) -> (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(8, outputs), nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(8, outputs), nn.SiLU(),
        )  # fmt: skip


class UNet(nn.Module):
    """Images (N, in_channels, H, W) -> (N, num_classes, H, W); H and W divisible by 2 ** (len(widths) - 1)."""

    def __init__(self, widths: tuple[int, ...], in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.first = Double(in_channels, widths[0])
        self.down = nn.ModuleList(Double(a, b) for a, b in pairwise(widths))
        self.lift = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(Double(2 * a, a) for a, _ in pairwise(widths))
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, num_classes, H, W)."""
        skips = [self.first(x)]
        for block in self.down:
            skips.append(block(self.pool(skips[-1])))
        x = skips.pop()
        for lift, block in zip(reversed(self.lift), reversed(self.up), strict=True):
            x = block(torch.cat((skips.pop(), lift(x)), dim=1))
        return self.head(x)


def unet_small_net(num_classes: int = 2, in_channels: int = 3) -> UNet:
    """Widths 32 to 256, four levels; 1,927,042 parameters by default."""
    return UNet((32, 64, 128, 256), in_channels, num_classes)


def unet_small(batch: int = 8) -> Example:
    """Seeded `unet_small_net`: (batch, 3, 64, 64) float32 -> (batch, 2, 64, 64)."""
    return seeded(unet_small_net, (batch, 3, 64, 64))
