"""Many models in one process: each is compiled, and none is kept alive by what was compiled for it."""

from __future__ import annotations

import gc
import weakref

import torch
from torch import nn

import approx_fx


def converted(outputs: int) -> nn.Module:
    layers = [nn.Linear(32, 32), nn.GELU(), nn.Linear(32, outputs)]
    model = approx_fx.convert(nn.Sequential(*layers), bits=4, min_bytes=256, compiler="eager", strict=True)
    model(torch.randn(64, 32)).sum().backward()
    return model


def test_more_models_than_dynamo_recompiles_a_function() -> None:
    models = [converted(8 + index) for index in range(torch._dynamo.config.recompile_limit + 2)]
    assert all(approx_fx.report(model).ratio > 10 for model in models)


def test_a_model_is_freed() -> None:
    model = weakref.ref(converted(8))
    gc.collect()
    assert model() is None
