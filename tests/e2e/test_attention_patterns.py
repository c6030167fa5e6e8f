"""Attention that is written out, and that Inductor's patterns replace by torch's op, whose result has other strides."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import approx_fx


class WrittenOut(nn.Module):
    """Heads split by a view, by unflatten, or by reshape; scaled by a division in three spellings."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.qkv, self.out, self.spelling = nn.Linear(64, 192), nn.Linear(64, 64), spelling

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        if self.spelling == "view":
            q, k, v = self.qkv(x).view(n, t, 3, 4, 16).permute(2, 0, 3, 1, 4)
        elif self.spelling == "unflatten":
            q, k, v = (part.unflatten(-1, (4, 16)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        else:
            q, k, v = (part.reshape(n, t, 4, 16).permute(0, 2, 1, 3) for part in self.qkv(x).split(64, -1))
        scores = q @ k.transpose(-1, -2) / math.sqrt(16)
        return self.out((torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(n, t, c))


@pytest.mark.parametrize("compiler", ["eager", pytest.param("inductor", marks=pytest.mark.cpp)])
@pytest.mark.parametrize("spelling", ["view", "unflatten", "reshape"])
def test_written_out(spelling: str, compiler: str) -> None:
    torch.manual_seed(0)
    model, x = WrittenOut(spelling), torch.randn(4, 32, 64)
    exact = copy.deepcopy(model)
    approx_fx.convert(model, bits=4, min_bytes=256, compiler=compiler, strict=True)
    for each in (exact, model):
        each(x).square().sum().backward()
    assert approx_fx.report(model).ratio > 7
    for (name, right), ours in zip(exact.named_parameters(), model.parameters(), strict=True):
        assert right.grad is not None and ours.grad is not None
        assert F.cosine_similarity(ours.grad.flatten(), right.grad.flatten(), dim=0) > 0.98, name
