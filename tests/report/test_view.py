"""view without a browser: what is drawn adds up; folding; text, JSON, pictures, Mermaid; the errors' texts."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import approx_fx
from approx_fx.errors import ApproxFxError
from approx_fx.report.data import Report
from approx_fx.report.view import static
from approx_fx.report.view.html import summary
from approx_fx.report.view.layer_folding import Fold, drawn_path, find_folds, folds_by_member
from approx_fx.report.view.merge import merged
from approx_fx.report.view.page_data import COLUMNS, page_data
from approx_fx.report.view.picture import Saved
from approx_fx.report.view.ribbon import SIDES, curve, ribbons
from approx_fx.report.view.text import data, mermaid, text
from models.gpt import GPT
from models.resnet import resnet20
from tests.e2e.test_cli import run
from tests.support.hard_nets import sparse_images
from tests.support.nets import ConvBnRelu, Residual, images


def arcs_of(report: Report, side: str) -> float:
    return sum(arc.share for arc in ribbons(merged(report))[0].arcs[side])


@pytest.fixture(scope="module")
def report() -> Report:
    model, inputs = resnet20(4)
    return approx_fx.explain(model, *inputs)


def test_measured_errors_are_in_the_page() -> None:
    """Where `check` was run: in the table and in the arcs' texts; of a code that was too far off, its own error."""
    model, inputs = sparse_images()
    checked = approx_fx.check(model, *inputs, min_bytes=256)
    shown = approx_fx.explain(model, *inputs, min_bytes=256).with_measured(checked.values)
    errors = {row.name: row.measured for row in shown.tensors}
    assert all(error is not None for error in errors.values())
    found_off = [value for value in checked.values if value.before is not None and value.name in errors]
    assert found_off and all(errors[value.name] == value.before for value in found_off)
    page = page_data(merged(shown), 0)
    column = COLUMNS.index("measured %")
    told = {row[column] for row in page["table"]["after"] if row[column] != ""}
    assert told == {round(100 * error, 2) for error in errors.values() if error is not None}
    assert any(f"{value.before:.1%} measured, " in text for value in found_off for text in page["texts"])


@pytest.mark.cpp
def test_the_timelines_peaks_are_the_reports(report: Report) -> None:
    picture = merged(report)
    assert picture.before.moments.peak_bytes == report.predicted_peak["before"]
    assert picture.after.moments.peak_bytes == report.predicted_peak["after"]
    for side in (picture.before, picture.after):
        peak = side.moments.moments[side.moments.peak]
        assert (
            sum(each.bytes for each in side.moments.at_peak) == peak.total == max(m.total for m in side.moments.moments)
        )
        assert {moment.phase for moment in side.moments.moments} == {"forward", "backward"}


def test_what_is_saved_is_alive_between_the_halves(report: Report) -> None:
    """When the backward starts, codes and exact tensors are there, and with the incoming gradient nothing else."""
    after = merged(report).after
    start = next(moment for moment in after.moments.moments if moment.phase == "backward")
    exact, codes, decoded, _, others = start.live
    assert exact + codes == report.saved_after and codes > 4 * exact and decoded == others == 0


def test_every_saved_byte_is_in_an_arc(report: Report) -> None:
    picture = merged(report)
    for state in ribbons(picture):
        for side in SIDES:
            saved = sum(each.bytes_after for each in getattr(picture, side).saved)
            assert math.isclose(sum(arc.share for arc in state.arcs[side]), saved)
        places = {slot.module: slot for slot in state.slots}
        for arc in (*state.arcs["before"], *state.arcs["after"]):
            for end, y in ((arc.source, arc.left), (arc.target, arc.right)):
                slot = places[end]
                assert slot.top - 1e-9 <= y and y + arc.thickness <= slot.top + slot.height + 1e-9
            xs, ys = curve(arc)
            assert (xs[0], ys[0], ys[-1]) == (0.0, arc.left, pytest.approx(arc.left + arc.thickness))


@pytest.mark.cpp
@pytest.mark.parametrize(
    "options", [{"rows": "sigma"}, {"rounding": "stochastic"}, {"bits": {"*": 4, "blocks.0.*": None}}]
)
def test_arcs_and_rows_are_the_reports_bytes(options: dict[str, Any]) -> None:
    """Where two codes share a tensor, as rows' codes do their statistics, it counts once."""
    model: Any = GPT(2, 64, 4, 256, 64)
    found = approx_fx.explain(model, torch.randint(256, (8, 64)), min_bytes=256, **options)
    rows = sum(row.bytes_after for row in found.tensors) + sum(row.bytes for row in found.kept)
    assert rows == found.saved_after and math.isclose(arcs_of(found, "after"), rows)
    assert math.isclose(arcs_of(found, "before"), found.saved_before)


def test_a_report_survives_a_pickle(report: Report) -> None:
    again = pickle.loads(pickle.dumps(report))
    assert again == report and again.pictures == report.pictures and not again.both_partitions


def test_parameters_are_the_models(report: Report) -> None:
    model, _ = resnet20(4)
    held = sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))
    assert report.about.parameters == held


def test_nothing_is_decoded_early(report: Report) -> None:
    assert {row.early for row in report.tensors} == {0}


def test_every_tensor_says_where_it_is_read(report: Report) -> None:
    assert all(row.used_in for row in (*report.tensors, *report.kept))
    assert all(each.used_in for each in merged(report).before.saved)
    row = next(row for row in report.tensors if row.module == "1.branch.0")
    assert row.used_in == ("1.branch.2", "1.branch.1.1", "1.branch.1.0")


def saved_in(module: str, coding: str = "group", shape: tuple[int, ...] = (2,)) -> Saved:
    return Saved(module, module, "mm", shape, "float32", coding, 4, 8, 1, (), (module,), "")


def test_like_layers_fold() -> None:
    paths = ["stem", "blocks.0.a", "blocks.1.a", "blocks.2.a", "blocks.3.a", "blocks.4.a", "head"]
    saved = [saved_in(path, "relu" if path == "blocks.3.a" else "group", (index,)) for index, path in enumerate(paths)]
    (fold,) = find_folds(paths, saved)
    assert fold == Fold(("blocks.0", "blocks.1", "blocks.2")) and fold.label == "blocks.0-2"
    folded = folds_by_member([fold])
    assert [drawn_path(path, folded) for path in paths] == [
        "stem", "blocks.0-2.a", "blocks.0-2.a", "blocks.0-2.a", "blocks.3.a", "blocks.4.a", "head",
    ]  # fmt: skip


def test_layers_inside_a_single_block_fold() -> None:
    paths = [f"body.{index}.inner.{layer}" for index in range(2) for layer in range(3 - index)]
    saved = [saved_in(path) for path in paths] + [saved_in("body.0.extra")]
    assert [fold.label for fold in find_folds([*paths, "body.0.extra"], saved)] == [
        "body.0.inner.0-2",
        "body.1.inner.0-1",
    ]


def test_the_chain_is_one_group(report: Report) -> None:
    nodes = merged(report).after.nodes
    ops = {}
    for node in nodes:
        if node.chain >= 0:
            ops.setdefault(node.chain, []).append(node.op)
            assert node.side == "forward"
    assert len(ops) == 21  # every batch normalisation of ResNet-20, the two of shortcuts included
    assert all("convolution" in found and "rsqrt" in found for found in ops.values())
    assert sum("relu" in found for found in ops.values()) == 10
    assert all(node.reads < (index,) for index, node in enumerate(nodes))


def test_as_text(report: Report) -> None:
    told = text(report)
    arc = "1-3.branch.0 -> 1-3.branch.1.0, channel+mask, 4 bits"
    for part in ("smaller: 13.", arc, "torch.compile |", "alive at the peak", "stored in few bits"):
        assert part in told
    assert max(map(len, told.splitlines())) <= 160


def test_as_json(report: Report) -> None:
    found = json.loads(json.dumps(data(report)))
    assert found["schema"] == 1 and found["report"] == json.loads(report.to_json())
    assert found["graphs"][0]["after"]["saved"][0]["used_in"]


def test_in_a_notebook(report: Report) -> None:
    html = report._repr_html_()
    assert html.startswith("<p><b>saved for backward") and html.count("<svg") == 1 and html.count("<table>") == 2
    assert "<script" not in html


def test_one_chain_as_mermaid() -> None:
    chart = mermaid(approx_fx.explain(ConvBnRelu(), images(), min_bytes=256))
    lines = chart.splitlines()
    assert lines[0] == "flowchart TD" and lines[-1].startswith("  classDef coded")
    labels = [line.split('["')[1].split("<br/>")[0] for line in lines if '["' in line]
    assert labels[:2] == ["convolution", "var_mean"] and labels.count("quantize_channel") == 1 and "relu" in labels
    assert sum("==>|saved|" in line for line in lines) == 4  # codes and grid, read for the values and for the mask
    assert "getitem" not in labels and "unsqueeze" not in labels


def test_mermaid_without_a_chain() -> None:
    model: Any = GPT(1, 64, 4, 256, 64)
    found = approx_fx.explain(model, torch.randint(256, (8, 64)), min_bytes=256)
    for chart in (mermaid(found), mermaid(found, "blocks"), mermaid(found, "blocks.0.mlp")):
        assert "quantize_group" in chart and "==>|saved|" in chart


@pytest.mark.cpp
def test_mermaid_of_another_module() -> None:
    told = approx_fx.explain(Residual(), images(), min_bytes=256)
    assert "convolution<br/>a<br/>" in mermaid(told, "a")
    with pytest.raises(ApproxFxError, match=r"no module 'aa' takes part in the graph\. Did you mean 'a'"):
        mermaid(told, "aa")


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        torch._dynamo.graph_break()
        return torch.relu(self.second(x))


@pytest.mark.cpp
def test_a_broken_graph_is_one_picture(tmp_path: Path) -> None:
    found = approx_fx.view(Broken(), torch.randn(64, 64), path=tmp_path / "broken.html", min_bytes=256)
    assert len(found.pictures) == 2
    picture = merged(found)
    phases = list(dict.fromkeys(moment.phase for moment in picture.after.moments.moments))
    assert phases == ["forward 1", "forward 2", "backward 2", "backward 1"]
    # What the first graph saved is there while the second runs.
    second = next(moment for moment in picture.after.moments.moments if moment.phase == "forward 2")
    alone = found.pictures[1].after.moments.moments[0]
    assert second.total == alone.total + found.graphs[0].after
    moments = picture.after.moments
    assert sum(each.bytes for each in moments.at_peak) == moments.peak_bytes == max(m.total for m in moments.moments)
    assert picture.after.moments.peak_bytes == found.predicted_peak["after"]
    assert sum(each.bytes_after for each in picture.after.saved) == found.saved_after
    nodes = picture.after.nodes
    assert [node.side for node in nodes] == sorted((node.side for node in nodes), reverse=True)
    each = [node for one in found.pictures for node in one.after.nodes]
    assert len(each) == len(nodes)
    named = {(node.name, node.side, node.module): node for node in nodes}
    for one in found.pictures:
        for node in one.after.nodes:
            mine = named[node.name, node.side, node.module]
            assert [nodes[index].name for index in mine.reads] == [one.after.nodes[index].name for index in node.reads]


@pytest.mark.cpp
def test_a_graph_that_stays_exact(tmp_path: Path) -> None:
    model, inputs = resnet20(4)
    found = approx_fx.view(model, *inputs, path=tmp_path / "exact.html", bits=None)
    picture = merged(found)
    assert picture.after is picture.before and summary(found)["bits"] == "exact"


def test_a_report_of_a_training_run_cannot_be_drawn(tmp_path: Path) -> None:
    model = approx_fx.convert(nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8)), compiler="eager")
    model(torch.randn(64, 64)).sum().backward()
    with pytest.raises(
        ApproxFxError, match=r"this report holds no graph to draw.*approx_fx\.view\(model, \*inputs, path=\.\.\.\)"
    ):
        approx_fx.report(model).save_html(tmp_path / "out.html")


@pytest.mark.cpp
def test_a_file_that_cannot_be_written(report: Report, tmp_path: Path) -> None:
    with pytest.raises(ApproxFxError, match=r"cannot write '.*/no/out\.html': No such file or directory\."):
        report.save_html(tmp_path / "no" / "out.html")
    with pytest.raises(ApproxFxError, match=r"cannot write '.*/no/out-ribbon\.svg': No such file or directory\."):
        static.save(report, tmp_path / "no" / "out.svg", "svg")


@pytest.mark.parametrize(
    ("module", "part"), [("bokeh", "the page needs bokeh"), ("matplotlib", "pictures need matplotlib")]
)
def test_a_library_that_is_missing(
    module: str, part: str, report: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (module, "bokeh.embed", "matplotlib.backends"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ApproxFxError, match=rf"{part}; pip install 'approx_fx\[view\]'"):
        report.save_html(tmp_path / "x.html") if module == "bokeh" else static.save(report, tmp_path / "x", "svg")


@pytest.mark.cpp
def test_the_core_needs_neither() -> None:
    code = "import sys, approx_fx, approx_fx.cli; print([m for m in ('bokeh', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.cpp
def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    done = run("view", "models.mlp:mlp", "--batch", "64", "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert f"<dd>approx-fx view models.mlp:mlp --batch 64 -o {out}</dd>" in out.read_text()
    done = run("view", "models.mlp:mlp", "--batch", "64", "-o", str(tmp_path / "paper.svg"), "--format", "svg")
    assert done.stdout.split() == [str(tmp_path / "paper-ribbon.svg"), str(tmp_path / "paper-timeline.svg")]
    assert all("<svg" in Path(line).read_text() for line in done.stdout.split())


@pytest.mark.cpp
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--format", "pgn"], "--format 'pgn' is not allowed: html, svg, png. Did you mean 'png'?"),
        (["--text", "--json"], "--text, --json and --mermaid print different things: give one of them."),
        (["--module", "0"], "--module names the chain that --mermaid prints: give both."),
    ],
)
def test_mistakes(arguments: list[str], part: str) -> None:
    done = run("view", "models.mlp:mlp", *arguments)
    assert done.returncode == 2 and part in done.stderr


def test_errors_in_a_report(report: Report) -> None:
    by_quantizer = {row.quantizer: row.error for row in report.tensors}
    assert by_quantizer["channel"] == pytest.approx(math.sqrt(0.01154), rel=0.01)  # Max 1960, Table II, 16 levels
    assert by_quantizer["bitmask"] == 0 and 0.08 < by_quantizer["group"] < 0.15


@pytest.mark.cpp
def test_twelve_layers_are_under_three_megabytes(tmp_path: Path) -> None:
    model: Any = GPT(12, 64, 4, 256, 64)
    path = tmp_path / "gpt.html"
    approx_fx.view(model, torch.randint(256, (2, 64)), path=path)
    assert path.stat().st_size < 3e6
    assert "https://" not in path.read_text().split("approx-data")[1].split("</script>")[0]
