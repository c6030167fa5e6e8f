"""tools/passes.py on a small network: what it times, what it writes, and what it refuses."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from typer.testing import CliRunner

from approx_fx.torch_compat import aot_partitioner as aot
from tools import passes

BROKEN = """
import torch
from torch import nn

class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.a(x)
        torch._dynamo.graph_break()
        return self.b(x)

def broken(batch=4):
    return Broken(), (torch.randn(batch, 8),)
"""


@pytest.mark.cpp
def test_both_partitions_are_timed_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name, timed in passes.TIMED.items():
        monkeypatch.setitem(passes.TIMED, name, lambda *args, n=name, f=timed: (order.append(n), f(*args)))
    targets = ["--targets", "models.resnet:resnet20", "--rounds", "3"]
    done = CliRunner().invoke(passes.app, [*targets, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert order == ["approx_fx", "compile", "asking"] * 3
    data = json.loads((tmp_path / "passes.json").read_text())
    (row,) = data["rows"]
    assert row["target"] == "models.resnet:resnet20" and row["nodes"] > 400
    assert {name: len(found) for name, found in row["all"].items()} == {"approx_fx": 3, "compile": 3, "asking": 3}
    assert row["seconds"] == {name: statistics.median(found) for name, found in row["all"].items()}
    assert f"resnet20, {row['nodes']} nodes: approx_fx {row['seconds']['approx_fx']:.1f} s" in done.output


def test_a_fault_of_the_pass_is_not_timed_as_torchs_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass falls back to torch's own partition where it fails, which would flatter it here."""

    def fault(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(aot, "split_joint_graph", fault)
    done = CliRunner().invoke(passes.app, ["--targets", "models.resnet:resnet20", "--out", str(tmp_path)])
    assert done.exit_code == 1 and "ZeroDivisionError" in repr(done.exception)
    assert not (tmp_path / "passes.json").exists()


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("models.resnet:resnet21", "models.resnet has no 'resnet21'. Did you mean 'resnet20'?"),
        ("broken.py:broken", "is traced in 2 graphs with a backward; only a model in one can be timed."),
    ],
)
def test_what_cannot_be_timed_is_a_sentence(target: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    path = target.replace("broken.py", str(tmp_path / "broken.py"))
    done = CliRunner().invoke(passes.app, ["--targets", path, "--rounds", "1", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert sentence in " ".join(done.output.split())
