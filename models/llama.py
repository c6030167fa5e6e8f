"""Llama: Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models", section 2.2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.factory import TextExample, seeded_text


def rotations(length: int, width: int, device: torch.device, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """cos, sin (length, width) of rotary position embedding (Su et al. 2021, equation 34)."""
    frequency = base ** (-torch.arange(0, width, 2, device=device).float() / width)
    angle = torch.outer(torch.arange(length, device=device).float(), frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + width/2) of x (N, heads, T, width) by their position's angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Rotary causal attention in which `heads / kv_heads` queries share a key: (N, T, width) -> (N, T, width)."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head = heads, kv_heads, width // heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, kv_heads * self.head, bias=False)
        self.v = nn.Linear(width, kv_heads * self.head, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (N, T, width), cos and sin (T, width / heads) -> (N, T, width)."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k = self.k(x).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        return self.out(y.transpose(1, 2).flatten(-2))


class SwiGLU(nn.Module):
    """silu(gate x) * (up x), projected down (Shazeer 2020): (N, T, width) -> (N, T, width)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Attention and SwiGLU, each behind its RMS norm and on the residual stream."""

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.RMSNorm(width, eps=1e-5), Attention(width, heads, kv_heads)
        self.norm2, self.mlp = nn.RMSNorm(width, eps=1e-5), SwiGLU(width, hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (N, T, width) -> (N, T, width)."""
        x = x + self.attention(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Llama(nn.Module):
    """Tokens int64 (N, T) -> logits (N, T, vocabulary)."""

    def __init__(self, depth: int, width: int, heads: int, kv_heads: int, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads, kv_heads, hidden) for _ in range(depth))
        self.norm, self.head = nn.RMSNorm(width, eps=1e-5), nn.Linear(width, vocabulary, bias=False)
        self.head_width = width // heads
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) -> (N, T, vocabulary)."""
        cos, sin = rotations(tokens.shape[1], self.head_width, tokens.device)
        x = self.token(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x))


def llama_tiny_net(vocabulary: int = 1024) -> Llama:
    """Four blocks of width 256, 8 heads over 4 keys, hidden width 688; 3,426,560 parameters by default."""
    return Llama(4, 256, 8, 4, 688, vocabulary)


def llama_tiny(batch: int = 4, length: int = 256) -> TextExample:
    """Seeded `llama_tiny_net`: tokens (batch, 256) -> logits (batch, 256, 1024), next-token loss."""
    return seeded_text(llama_tiny_net, batch, length, 1024)
