"""The examples for other people's trainers in docs/trainers.md, run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from tools.lib.torchvision_import import import_torchvision

PAGE = (Path(__file__).parents[2] / "docs" / "trainers.md").read_text()


class Tiny(nn.Module):
    """A classifier that a Hugging Face trainer takes too: labels in, loss out."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 4))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.body(x)
        if labels is None:
            return logits
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def example(title: str) -> str:
    """The Python block under a heading of the page."""
    found = re.search(rf"^## {title}$.*?```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


@pytest.mark.cpp
@pytest.mark.parametrize(
    ("title", "package"), [("Accelerate", "accelerate"), ("HF Trainer", "transformers"), ("Lightning", "lightning")]
)
def test_example(title: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed: pip install approx_fx[zoo]")
    import_torchvision()
    monkeypatch.chdir(tmp_path)
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Tiny()
    before = [p.detach().clone() for p in model.parameters()]
    rows = [{"x": torch.randn(32), "labels": torch.tensor(i % 4)} for i in range(64)]
    loader = torch.utils.data.DataLoader(rows, batch_size=32)  # type: ignore[arg-type]
    exec(compile(example(title), title, "exec"), {"model": model, "dataset": rows, "loader": loader, "torch": torch})
    report = approx_fx.report(model)
    assert report.graphs and not any(graph.failed for graph in report.graphs)
    assert all(not torch.equal(a, b.detach().cpu()) for a, b in zip(before, model.parameters(), strict=True))
