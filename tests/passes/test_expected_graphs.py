"""The graph before and after the pass, as text, for each pattern.

`UPDATE_EXPECTED=1 pytest tests/passes/test_expected_graphs.py` writes them anew; read the difference before you commit
it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.support.capture import capture, text
from tests.support.nets import PATTERNS

EXPECTED = Path(__file__).parent / "expected"


@pytest.mark.cpp
@pytest.mark.skipif(
    not torch.__version__.startswith("2.13"), reason="the texts are those of torch 2.13's decompositions"
)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float32") for name in PATTERNS] + [("conv_bn_relu", "bfloat16"), ("residual", "bfloat16")],
)
def test_graph_before_and_after(name: str, dtype: str) -> None:
    model, inputs = PATTERNS[name]()
    cast = torch.bfloat16 if dtype == "bfloat16" else None
    seen = capture(model, *inputs, run=False, bits=4, min_bytes=1024, dtype=cast)
    assert seen.joint is not None and seen.done is not None
    parts = {"joint graph": seen.joint, "forward": seen.done.forward, "backward": seen.done.backward}
    found = "\n".join(f"== {title}\n{text(module)}" for title, module in parts.items())
    path = EXPECTED / f"{name}_{dtype}.txt"
    if os.environ.get("UPDATE_EXPECTED"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert found == path.read_text()
