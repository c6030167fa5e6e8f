"""Many models in one process: each is compiled, and none is kept alive by what was compiled for it."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

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


class DroppedInCheckpoint(nn.Module):
    """Dropout inside a checkpointed region."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        region = lambda h: nn.functional.dropout(self.inner(h), 0.5).sin()  # noqa: E731
        return self.last(checkpoint(region, self.first(x), use_reentrant=False))


@pytest.mark.parametrize("bits", [None, 4])
def test_random_numbers_that_eager_would_draw_again_are_named(
    bits: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    model, x = DroppedInCheckpoint(), torch.randn(64, 32)
    approx_fx.convert(model, bits=bits, min_bytes=256, compiler="eager")
    model(x).sum().backward()
    assert any(
        "draws the random numbers of a checkpointed region anew" in record.getMessage() for record in caplog.records
    )
