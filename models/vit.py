"""Vision Transformer: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words".

The S size is that of DeiT: Touvron et al. 2021, "Training data-efficient image transformers".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.factory import Example, seeded


class Attention(nn.Module):
    """Multi-head self-attention: (N, T, width) -> (N, T, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """Equations 2 and 3: attention and a GELU network, each behind its layer norm and on the residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Images (N, in_channels, size, size) -> logits (N, num_classes), read off a class token."""

    def __init__(
        self, depth: int, width: int, heads: int, patch: int, size: int, num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, size, size) -> (N, num_classes)."""
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(len(x), -1, -1), x), dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit_small_net(num_classes: int = 1000, in_channels: int = 3, size: int = 224) -> ViT:
    """ViT-S/16: 12 blocks of width 384, 6 heads; 22,050,664 parameters by default."""
    return ViT(12, 384, 6, 16, size, num_classes, in_channels)


def vit_small(batch: int = 16) -> Example:
    """Seeded `vit_small_net`: (batch, 3, 224, 224) float32 -> logits (batch, 1000)."""
    return seeded(vit_small_net, (batch, 3, 224, 224))
