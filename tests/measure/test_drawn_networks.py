"""Networks and data drawn to be hard: gradients are right after the measured step, exact, or a sentence was said."""

from __future__ import annotations

import random

import pytest

from tools.fuzz import draw, tried


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_drawn_networks(seed: int) -> None:
    generator = random.Random(seed)
    results = [tried(*draw(generator)) for _ in range(100)]
    silent = [result for result in results if result["wrong"] and not result["said"]]
    assert not silent
