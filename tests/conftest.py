from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Each test starts without compiled graphs, and leaves this package's warnings on for those after it."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    logger = logging.getLogger("approx_fx")
    assert logger.level == logging.NOTSET and not logger.disabled, "the test silenced the warnings of approx_fx"
