"""GPT-2: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3 (pre-norm decoder)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.factory import TextExample, seeded_text


class CausalAttention(nn.Module):
    """Multi-head self-attention that sees no later token: (N, T, width) -> (N, T, width)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.dropout = heads, dropout

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        rate = self.dropout if self.training else 0.0
        y = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """Attention, then a GELU network of four times the width, each behind its layer norm and on the residual stream."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), CausalAttention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class GPT(nn.Module):
    """Tokens int64 (N, T), T up to `context` -> logits (N, T, vocabulary); input and output embeddings are shared."""

    def __init__(self, depth: int, width: int, heads: int, vocabulary: int, context: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.token.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("attention.out.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * depth) ** 0.5 if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) -> (N, T, vocabulary)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.token(tokens) + self.position(places))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def gpt_small_net(vocabulary: int = 50257, context: int = 1024) -> GPT:
    """GPT-2 small, table 2: 12 blocks of width 768, 12 heads; 124,439,808 parameters by default."""
    return GPT(12, 768, 12, vocabulary, context)


def gpt_tiny_net(vocabulary: int = 256, context: int = 256) -> GPT:
    """Four blocks of width 128, 4 heads; 858,880 parameters by default."""
    return GPT(4, 128, 4, vocabulary, context)


def gpt_small(batch: int = 4, length: int = 256) -> TextExample:
    """Seeded `gpt_small_net`: tokens (batch, 256) -> logits (batch, 256, 50257), next-token loss."""
    return seeded_text(gpt_small_net, batch, length, 50257)


def gpt_tiny(batch: int = 8, length: int = 128) -> TextExample:
    """Seeded `gpt_tiny_net`: tokens (batch, 128) -> logits (batch, 128, 256), next-token loss."""
    return seeded_text(gpt_tiny_net, batch, length, 256)
