"""A first step that is measured, beside the exact one: gradients, and what was said."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import approx_fx


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of this package."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("approx_fx") and r.levelno >= logging.WARNING]


def backward(model: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
    model.zero_grad()
    output = model(*inputs)
    loss = output if output.ndim == 0 else output.square().mean()
    loss.backward()
    return loss.detach()


def worst_cosine(model: nn.Module, exact: nn.Module) -> tuple[float, str]:
    """Of all parameters whose gradient is more than the rounding of the others."""
    gradients = {name: p.grad.double().flatten() for name, p in exact.named_parameters() if p.grad is not None}
    largest = max(gradient.norm() for gradient in gradients.values())
    ours = dict(model.named_parameters())
    return min(
        (float(F.cosine_similarity(ours[name].grad.double().flatten(), gradient, dim=0)), name)  # type: ignore[union-attr]
        for name, gradient in gradients.items()
        if gradient.norm() > 1e-5 * largest
    )


def trained(build: Any, bits: int, **options: Any) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model, inputs = build()
    exact = copy.deepcopy(model)
    approx_fx.convert(model, bits=bits, min_bytes=256, **{"compiler": "eager", "strict": True, **options})
    assert torch.allclose(backward(model, inputs), backward(exact, inputs), rtol=1e-5)
    return model, exact
