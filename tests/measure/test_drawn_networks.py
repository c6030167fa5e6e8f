"""Networks and data drawn to be hard: gradients are right after the measured step, exact, or a sentence was said."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tools.fuzz import ROOT, draw, tried


def warned(result: dict[str, Any]) -> bool:
    """A sentence about the network's gradients was said: one is off, or more bits or exact values are for them."""
    return any("gradient" in text for text in result["said"])


def test_the_committed_log() -> None:
    """10,000 networks; every one with a gradient below the bound was warned of."""
    data = json.loads((ROOT / "docs" / "results" / "fuzz.json").read_text())
    wrong = [network for run in data["runs"] for network in run["networks"]]
    assert data["drawn"] == sum(run["drawn"] for run in data["runs"]) >= 10_000
    assert data["silently_wrong"] == 0 and len(wrong) == sum(run["wrong"] for run in data["runs"])
    assert all(warned(network) for network in wrong)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_drawn_networks(seed: int) -> None:
    generator = random.Random(seed)
    results = [tried(*draw(generator)) for _ in range(100)]
    assert all(warned(result) for result in results if result["wrong"])
