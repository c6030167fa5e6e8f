"""What the tests of losses in chunks share."""

from __future__ import annotations

import pytest
import torch

from approx_fx.chunk import region
from approx_fx.passes import chunk_loss


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small products computed in chunks, of 16 rows each."""
    monkeypatch.setattr(region, "LEAST_ELEMENTS", 4096)
    monkeypatch.setattr(chunk_loss, "CHUNK_BYTES", {"cpu": 1})
    monkeypatch.setattr(chunk_loss, "LEAST_ROWS", {"cpu": 16})
    monkeypatch.setattr(chunk_loss, "CACHED_WEIGHT", 0)
    torch._dynamo.reset()
    torch.manual_seed(0)
