"""docs/extending.md: its recipes do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.plan import rules

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()


def recipe(name: str) -> str:
    """The Python block that begins with `# recipe: name`."""
    block = re.search(rf"```python\n# recipe: {name}\n(.*?)```", PAGE, re.DOTALL)
    assert block, name
    return block[1]


class Arcs(nn.Module):
    """Two products with arc tangents of the first one's result between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.atan(self.first(x)))


def saved_ops() -> tuple[list[str], Tensor]:
    """The ops whose results are coded, and the gradient."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = approx_fx.convert(Arcs(), bits=4, min_bytes=0, compiler="eager", strict=True)
    model(torch.randn(64, 64)).square().mean().backward()
    return [row.op for row in approx_fx.report(model).tensors], flat_gradients(model)


def test_a_row_lets_an_op_be_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, the product that the slope is made of and the arc tangent are both kept; after, the product alone."""
    before, gradient = saved_ops()
    assert "atan" in before
    monkeypatch.setattr(rules, "RECOMPUTE", dict(rules.RECOMPUTE))
    exec(recipe("recompute"), {"RECOMPUTE": rules.RECOMPUTE})
    after, changed = saved_ops()
    assert "atan" not in after and len(after) < len(before)
    assert torch.nn.functional.cosine_similarity(gradient, changed, dim=0) > 0.98
