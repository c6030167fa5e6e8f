"""Seeded construction of a network together with its inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Example = tuple[nn.Module, tuple[Tensor, ...]]
Loss = Callable[[Tensor], Tensor]
TextExample = tuple[nn.Module, tuple[Tensor, ...], Loss]


def seeded(build: Callable[[], nn.Module], shape: tuple[int, ...], seed: int = 0) -> Example:
    """Return `build()` in train mode and one standard-normal float32 input of `shape`.

    Both depend on `seed` alone, the weights not even on `shape`; the global generators are left as they were.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().train()
        inputs = (torch.randn(shape, dtype=torch.float32),)
    return model, inputs


def seeded_text(build: Callable[[], nn.Module], batch: int, length: int, vocabulary: int, seed: int = 0) -> TextExample:
    """Return `build()` in train mode, int64 tokens (batch, length), and the mean cross-entropy of the next token.

    The loss takes logits (batch, length, vocabulary). Tokens and weights are drawn from `seed` alone.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().train()
        tokens = torch.randint(vocabulary, (batch, length + 1))

    def loss(logits: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten().to(logits.device))

    return model, (tokens[:, :-1].contiguous(),), loss
