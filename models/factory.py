"""Seeded construction of a network together with its inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Example = tuple[nn.Module, tuple[Tensor, ...]]


def seeded(build: Callable[[], nn.Module], shape: tuple[int, ...], seed: int = 0) -> Example:
    """Return `build()` in train mode and one standard-normal float32 input of `shape`.

    Both depend on `seed` alone, the weights not even on `shape`; the global generators are left as they were.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().train()
        inputs = (torch.randn(shape, dtype=torch.float32),)
    return model, inputs
