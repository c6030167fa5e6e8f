"""The examples for other people's trainers in tools/examples, run as a user runs them, and their page."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from tools.trainers import EXAMPLES, FOLDER, PAGE, RESULTS, Measured, run, table

FAST = "accelerate_loop"


def results() -> dict[str, Measured]:
    return {name: Measured(**line) for name, line in json.loads(RESULTS.read_text())["examples"].items()}


def marks(name: str) -> list[pytest.MarkDecorator]:
    """One example runs with the usual tests, the others with the slow ones, and none without its trainer's package."""
    missing = [package for package in EXAMPLES[name].packages if importlib.util.find_spec(package) is None]
    needs = pytest.mark.skipif(bool(missing), reason=f"needs the trainer of {missing}: pip install approx_fx[zoo]")
    return [needs, pytest.mark.cpp if name == FAST else pytest.mark.slow]


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in EXAMPLES])
def test_example(name: str) -> None:
    measured, committed = run(name), results()[name]
    assert measured.graphs == committed.graphs and not measured.failed
    assert measured.ratio == pytest.approx(measured.saved_exact / measured.saved)
    assert measured.ratio >= 0.9 * committed.ratio >= 2.5
    assert measured.cosine >= 0.98
    assert measured.loss_last < measured.loss_first - 0.1
    assert measured.only_trained_changed and measured.frozen_without_gradient
    assert (measured.parameters_trained < measured.parameters_in_all) == ("lora" in name)


def test_an_example_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.trainers.FOLDER", tmp_path)
    (tmp_path / "accelerate_loop.py").write_text("raise SystemExit('the reason')")
    with pytest.raises(RuntimeError, match="the reason"):
        run("accelerate_loop")
    (tmp_path / "accelerate_loop.py").write_text("print('{}')")
    with pytest.raises(RuntimeError, match="ended with 0"):
        run("accelerate_loop")


def test_every_example_is_short_and_on_the_page() -> None:
    page = PAGE.read_text()
    names = {path.stem for path in FOLDER.glob("*.py")} - {"result"}
    assert names == set(EXAMPLES)
    for name in names:
        assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= 40, name
        assert f"(../tools/examples/{name}.py)" in page, name


def test_the_page_shows_what_the_examples_do() -> None:
    """Each line of code on the page stands in the example that the section links."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    shown = 0
    for section in sections:
        for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
            linked = re.findall(r"\.\./tools/examples/(\w+\.py)", section)
            code = "".join((FOLDER / name).read_text() for name in linked)
            for line in filter(None, map(str.strip, block.splitlines())):
                assert line in code, line
                shown += 1
    assert shown >= 10


def test_the_committed_table() -> None:
    assert list(results()) == list(EXAMPLES)
    assert table(results(), json.loads(RESULTS.read_text())) in PAGE.read_text()
