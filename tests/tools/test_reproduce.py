"""The paper's experiments: their numbers, runs and tables, and one of them from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tools.lib.markdown_tables import fill
from tools.lib.settings import Epoch
from tools.lib.user_errors import UserError
from tools.reproduce.__main__ import TABLE, app
from tools.reproduce.comparison import error_table, main_data, main_settings
from tools.reproduce.gradient_error import bias_and_variance
from tools.reproduce.methods import model_of
from tools.reproduce.run_cache import RunCache
from tools.reproduce.sizes import QUICK
from tools.reproduce.table_cells import paired, with_deviation, with_error

pytestmark = pytest.mark.zoo


def test_bias_and_variance_are_those_of_the_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    errors = 0.5 + 2.0 * torch.randn(200, 50, generator=generator)
    bias, variance = bias_and_variance(errors)
    assert float(bias) == pytest.approx(50 * 0.25, rel=0.15)
    assert float(variance) == pytest.approx(50 * 4.0, rel=0.05)


def test_what_seeds_share_falls_out_of_a_difference() -> None:
    found = paired({0: 10.5, 1: 20.5, 2: 30.5, 7: 99.0}, {2: 30.0, 1: 20.0, 0: 10.0})
    assert found is not None and (found.mean, found.error) == (0.5, 0.0)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_one_run_has_no_spread_and_a_diverged_one_says_so() -> None:
    assert with_deviation([1.25]) == "1.25"
    assert with_deviation([1.0, 2.0]) == "1.50 ± 0.71"
    assert with_deviation([1.0, float("nan")]) == "diverged"
    assert with_error(paired({0: 1.5, 1: 2.0}, {0: 1.0, 1: 1.0})) == "+0.75 ± 0.25"
    assert with_error(paired({0: 1.5}, {0: 1.0})) == "+0.50, one seed"


def test_runs_are_made_once_and_other_settings_are_refused(tmp_path: Path) -> None:
    pool, dataset = RunCache(tmp_path), main_data(QUICK)
    settings = main_settings(QUICK)
    pool.train("main", ("exact", "naive-4"), (0,), dataset, settings)
    (before,) = pool.read("main", "naive-4", (0,))
    pool.train("main", ("naive-4",), (0,), dataset, settings)
    assert pool.read("main", "naive-4", (0, 1)) == [before]
    assert len(before["history"]) == QUICK.epochs and before["settings"]["method"] == "naive-4"
    text = error_table({"exact": pool.read("main", "exact", (0,)), "naive-4": [before]})
    assert text.splitlines()[0].startswith("| method | test error % |") and len(text.splitlines()) == 4
    with pytest.raises(UserError, match=r"naive-4-seed0.json holds a run with epochs=1 \(now 2\). Delete it, or give"):
        pool.train("main", ("naive-4",), (0,), dataset, replace(settings, epochs=2))


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first epoch's checkpoint is read, not trained again: the result is that of an unbroken run."""
    dataset, settings = main_data(QUICK), replace(main_settings(QUICK), epochs=2)
    whole = RunCache(tmp_path / "whole")
    whole.train("main", ("ours-4",), (0,), dataset, settings)
    parts = RunCache(tmp_path / "parts")

    class Stop(Exception):
        pass

    seen: list[int] = []

    def stop(*arguments: object) -> None:
        raise Stop

    def note(*arguments: object) -> None:
        epoch = arguments[-1]
        assert isinstance(epoch, Epoch)
        seen.append(epoch.epoch)

    monkeypatch.setattr("tools.reproduce.run_cache.report_epoch", stop)
    with pytest.raises(Stop):
        parts.train("main", ("ours-4",), (0,), dataset, settings)
    assert not parts.read("main", "ours-4", (0,))
    monkeypatch.setattr("tools.reproduce.run_cache.report_epoch", note)
    parts.train("main", ("ours-4",), (0,), dataset, settings)
    assert seen == [2]
    one, two = (pool.read("main", "ours-4", (0,))[0]["history"] for pool in (whole, parts))
    assert [epoch["train_loss"] for epoch in one] == [epoch["train_loss"] for epoch in two]


def test_tables_have_their_places() -> None:
    text = "a\n<!-- table: x -->\nold\n<!-- end -->\nb"
    assert fill(text, {"x": "new"}, "README.md") == "a\n<!-- table: x -->\nnew\n<!-- end -->\nb"
    with pytest.raises(UserError, match=r"README\.md has no line <!-- table: y --> with <!-- end --> behind it\."):
        fill(text, {"y": "new"}, "README.md")


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    runner = CliRunner()
    wrong = runner.invoke(app, ["acuracy", "--out", str(tmp_path)])
    assert wrong.exit_code == 2
    assert "There is no experiment 'acuracy'; known are all, equation9, accuracy" in wrong.output.replace("\n", " ")
    assert "Did you mean 'accuracy'?" in wrong.output.replace("\n", " ")
    both = runner.invoke(app, ["accuracy", "--quick", "--full"])
    assert both.exit_code == 2 and "Give --quick or --full, not both" in both.output


def test_every_experiment_says_where_it_is_not_measured_yet(tmp_path: Path) -> None:
    for experiment in TABLE:
        assert "Not measured yet" in experiment.page(QUICK, tmp_path) or "python -m" in experiment.page(QUICK, tmp_path)


def test_the_whole_quick_form(tmp_path: Path) -> None:
    """Three experiments in CI's size: their files, their pictures, their tables."""
    for name in ("directions", "architectures", "gradient-error"):
        done = CliRunner().invoke(app, [name, "--quick", "--out", str(tmp_path)])
        assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.glob("*.png")} == {"directions.png", "gradient_error.png"}
    run = json.loads((tmp_path / "main" / "forward-2-seed0.json").read_text())
    assert run["settings"]["seed"] == 0 and run["environment"]["torch"] == torch.__version__
    errors = json.loads((tmp_path / "gradient_error.json").read_text())["depths"]["8"]["errors"]["0"]
    sizes = [errors[bits]["all"] for bits in ("1", "2", "4", "8")]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.05


def test_a_reversible_net_stands_for_known_ones_alone() -> None:
    assert model_of("revnet", "preact_basic8") == "revnet20" and model_of("ours-4", "resnet20") == "resnet20"
    with pytest.raises(UserError, match="There is no revnet for the model 'resnet20'; known are preact_resnet164"):
        model_of("revnet", "resnet20")
