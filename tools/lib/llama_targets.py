"""Targets for `approx-fx compare`: a Llama of transformers, 4 layers x 512, grouped heads, 32,000 words, with its loss.

approx-fx compare tools.lib.llama_targets:tokens_2048 --against compile,checkpoint-hf,chunked,linear_cross_entropy
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .torchvision_import import import_torchvision

Labelled = tuple[nn.Module, dict[str, Tensor], Callable[[Any], Tensor]]
WORDS = 32000


def llama() -> nn.Module:
    """The model, in train mode."""
    import_torchvision()
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=512, intermediate_size=1376, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=2**17, use_cache=False,
    )  # fmt: skip
    model: nn.Module = transformers.LlamaForCausalLM(config)
    return model.train()


def loss(output: Any) -> Tensor:
    """The loss that the model has computed from its labels."""
    result: Tensor = output.loss
    return result


def _target(batch: int, length: int) -> Labelled:
    model = llama()
    tokens = torch.randint(WORDS, (batch, length), generator=torch.Generator().manual_seed(0))
    return model, {"input_ids": tokens, "labels": tokens}, loss


def tokens_512(batch: int = 1) -> Labelled:
    """Sequences of 512 tokens."""
    return _target(batch, 512)


def tokens_2048(batch: int = 1) -> Labelled:
    """Sequences of 2,048 tokens."""
    return _target(batch, 2048)


def tokens_8192(batch: int = 1) -> Labelled:
    """Sequences of 8,192 tokens."""
    return _target(batch, 8192)
