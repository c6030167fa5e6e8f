"""The training tool: real data in, logs and curves out, stopped and resumed; its errors; the models it trains."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.mlp import mlp
from models.resnet import resnet20, resnet50
from models.vgg import vgg16_bn
from tools.lib.datasets import load
from tools.lib.user_errors import UserError

ROOT = Path(__file__).parents[2]


def train(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/train.py", "--data", "digits", "--model", "mlp", "--compiler", "eager"]
    return subprocess.run(
        [*command, "--out", str(out), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_digits_are_real() -> None:
    data = load("digits")
    assert len(data.train_x) + len(data.test_x) == 1797
    assert set(data.train_y.tolist()) == set(range(10))


def test_missing_data_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="Did you mean 'digits'"):
        load("digit")


@pytest.mark.cpp
def test_train_logs_and_resumes(tmp_path: Path) -> None:
    done = train(tmp_path, "--bits", "exact,4", "--epochs", "2", "--seeds", "0")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["bits"], row["epoch"]) for row in rows] == [("exact", "1"), ("exact", "2"), ("4", "1"), ("4", "2")]
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    results = json.loads((tmp_path / "results.json").read_text())
    assert results
    again = train(tmp_path, "--bits", "exact,4", "--epochs", "2", "--seeds", "0")
    assert again.returncode == 0, again.stderr
    with (tmp_path / "log.csv").open() as file:
        assert list(csv.DictReader(file)) == rows
    other = train(tmp_path, "--bits", "4", "--epochs", "3", "--seeds", "0", "--lr", "0.01")
    assert other.returncode != 0 and "Traceback" not in other.stderr


@pytest.mark.cpp
def test_bad_spelling_is_a_sentence(tmp_path: Path) -> None:
    done = train(tmp_path, "--optimizer", "sdg")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "sgd" in done.stderr


@pytest.mark.parametrize(
    ("factory", "count", "outputs"),
    [(resnet20, 272_474, 10), (resnet50, 25_557_032, 1000), (vgg16_bn, 14_724_042, 10), (mlp, 932_362, 10)],
)
def test_reference_models(factory: object, count: int, outputs: int) -> None:
    state = torch.random.get_rng_state()
    model, inputs = factory(batch=2)  # type: ignore[operator]
    assert torch.equal(state, torch.random.get_rng_state())
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert model(*inputs).shape == (2, outputs)
