"""The benchmark's and the GPU run's arithmetic, pages, deadlines and errors, on made-up results."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from approx_fx.bench.compare import _summary, compare, quartiles
from approx_fx.bench.gpu_profile import Kernel, kernels
from approx_fx.bench.worker import Job
from approx_fx.config import Config
from tools import gpu
from tools.lib.measuring import gpu_page, gpu_sections, plots
from tools.lib.measuring.benchmark import DEPTHS, NETWORKS, SYSTEMS, BenchmarkResults, choose, means, means_line, render
from tools.lib.measuring.calculations import Point, dominated, extrapolated_batch, geometric_mean, pareto, search
from tools.lib.measuring.deadline import Deadline, run_section
from tools.lib.measuring.environment import command, environment, slug
from tools.lib.measuring.gpu_sections import SECTIONS
from tools.lib.measuring.pages import comparison, table
from tools.lib.measuring.plots import draw_lines, draw_pareto
from tools.lib.measuring.timing_lock import Ticket, side_by_side
from tools.lib.user_errors import UserError

ROOT = Path(__file__).parents[2]
without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="tests what is said without a GPU; there is one")


def run_of(step: float, peak: int, **more: Any) -> dict[str, Any]:
    parts = {"forward_seconds": step / 3, "backward_seconds": 2 * step / 3, "step_quartiles": [step, 1.1 * step]}
    sizes = {"peak_bytes": peak, "saved_bytes": peak // 2, "compile_seconds": 10.0, "samples": 32}
    return {"step_seconds": step, **parts, **sizes, "gradient": {"cosine": 0.99}, "loss_equal": True, **more}


def entry() -> dict[str, Any]:
    runs = {"approx_fx": run_of(0.9, 2**20, warm_seconds=3.5), "compile": run_of(1.0, 2**23),
            "eager": run_of(1.2, 2**24), "fp8": {"failed": "fp8: RuntimeError: no | here"}}  # fmt: skip
    ratio = {"step": 0.9, "compile": 1.1, "peak": 8.0, "saved": 8.0}
    return {"runs": runs, "ratio": ratio, "against": "compile", "dtype": "float32", "batch": 32}


def test_dominated_points() -> None:
    points = [Point("a", 1.0, 1.0), Point("b", 0.9, 0.5), Point("c", 0.8, 0.9), Point("d", 0.9, 0.5)]
    assert dominated(points) == {"a"}
    assert {point.system: point.memory for point in pareto(entry()["runs"])} == {
        "approx_fx": 0.125, "compile": 1.0, "eager": 2.0,
    }  # fmt: skip
    assert pareto({"approx_fx": run_of(1, 1), "compile": {"failed": "no"}}) == []


def test_means() -> None:
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert geometric_mean([]) is None
    found = means({"a": entry(), "b": {"failed": "no"}, "c": {**entry(), "ratio": None}})
    assert found == {"float32": {"step": pytest.approx(0.9), "compile": pytest.approx(1.1), "entries": 1}}
    assert means_line(found) == "float32: step 0.90x, compile 1.10x of torch.compile, geometric means of 1"
    assert quartiles([3.0]) == [3.0, 3.0] and quartiles([1.0, 2.0, 3.0]) == [1.5, 2.5]


def test_the_largest_batch() -> None:
    assert extrapolated_batch((8, 180), (16, 260), 1000) == 90
    assert extrapolated_batch((8, 180), (16, 260), 1000, 8) == 88
    with pytest.raises(ValueError, match="the peak does not grow from batch 8"):
        extrapolated_batch((8, 180), (16, 180), 1000)
    for limit in (70, 88, 100, 131):
        tried: list[int] = []

        def fits(batch: int, limit: int = limit, tried: list[int] = tried) -> bool:
            tried.append(batch)
            return batch <= limit

        found = search(fits, 88, 8, 12)
        assert found == limit // 8 * 8 and len(tried) == len(set(tried)) <= 12
    assert search(lambda _: False, 88, 8, 2) is None
    assert gpu_sections.batch_of(10 * 2**30, 128, 80 * 2**30) == 816
    assert gpu_sections.batch_of(2**30, 128, 80 * 2**30) <= gpu_sections.INDEX_LIMIT


def test_pages() -> None:
    assert table(("a", "b"), [["x|y", "1\n2"]]) == ["| a | b |", "| --- | ---: |", "| x\\|y | 1 2 |"]
    text = "\n".join(comparison("net", entry()))
    assert (
        "| approx_fx | 900.0 ms | 900.0 to 990.0 | 300.0 ms | 600.0 ms | - | 10.0 s | 3.5 s | 0.5 MiB | 1.0 MiB "
        in text
    )
    assert "| 35.6 | 0.99000 | yes |" in text
    assert "Slower and larger than another, or no better: compile, eager." in text
    assert "- failed: fp8: RuntimeError: no | here" in text
    assert comparison("net", {"failed": "why"})[2] == "Failed: why"
    data = {**environment(), "entries": {"net float32": entry()}, "geometric_mean": means({"n": entry()}),
            "batches": {"net": {"series": {"compile": [[8, 10.0], [16, 12.0]]}}},
            "largest": {"net": {"compile": {"batch": 64, "samples_per_second": 5.0}}}}  # fmt: skip
    page = render(data)
    for part in ("### net float32, batch 32", "| compile | 10.0 | 12.0 |", "| compile | 64 | 5.0 |", "geometric means"):
        assert part in page


def test_plots(tmp_path: Path) -> None:
    assert draw_pareto({"net": entry(), "other": {"failed": "no"}}, tmp_path / "a.png")
    assert not draw_pareto({"net": {"failed": "no"}}, tmp_path / "b.png")
    draw_lines({"compile": [(8, 1.0), (4, 2.0)]}, tmp_path / "c.png", ("x", "y", "title"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "c.png"]


def test_the_plot_names_every_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    draw_pareto({"net": entry()}, tmp_path / "a.png")
    (legend,) = figures[0].legends
    assert {text.get_text() for text in legend.get_texts()} == {point.system for point in pareto(entry()["runs"])}


def test_names_and_files_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no network 'resnet18'; known are .*Did you mean 'resnet18_cifar'"):
        choose("network", "resnet18", NETWORKS)
    with pytest.raises(UserError, match=r"system 'eagr' is not known\. Did you mean 'eager'"):
        choose("system", "eagr", SYSTEMS)
    with pytest.raises(UserError, match="No depth is named; known are 20, 56, 110, 164"):
        choose("depth", " , ", DEPTHS)
    assert choose("system", "eager, approx_fx@3,eager", SYSTEMS) == ["eager", "approx_fx@3"]
    (tmp_path / "x.json").write_text('{"schema": 7, "entries": {}}')
    with pytest.raises(UserError, match=r"cannot be read \(schema 7 instead of 1\); move it away or give another"):
        BenchmarkResults(tmp_path, "x", "2020-01-01")
    with pytest.raises(UserError, match=r"is missing: run `python tools/bench\.py run` first"):
        BenchmarkResults(tmp_path, "y", "2020-01-01").write_page()


def test_results_are_kept_and_read_again(tmp_path: Path) -> None:
    book = BenchmarkResults(tmp_path, "x", "2020-01-01")
    book.data["entries"]["net float32"] = entry()
    book.write()
    again = BenchmarkResults(tmp_path, "x", "2020-01-02").data
    assert again["entries"] == book.data["entries"] and again["schema"] == 1
    assert {"device", "cpus", "torch", "python", "date", "command", "geometric_mean"} <= set(again)
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


@pytest.mark.slow
def test_compare_records_what_fails(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(
        "import torch, sys\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.one, self.two = torch.nn.Linear(64, 512), torch.nn.Linear(512, 8)\n"
        "    def forward(self, x):\n"
        "        if x.shape[0] == 3 and not torch.compiler.is_compiling(): raise ValueError('not op by op')\n"
        "        return self.two(torch.relu(self.one(x)))\n"
        "def make(batch): return Net(), (torch.randn(batch, 64),)\n"
    )
    config = Config(bits=4, compiler="eager", min_bytes=0)
    saved: list[int] = []
    found = compare(f"{path}:make", 3, config, steps=1, against=("approx_fx@exact", "eager"), warm=True,
                    save=lambda runs: saved.append(len(runs)))  # fmt: skip
    assert found["runs"]["eager"] == {"failed": "eager: ValueError: not op by op"}
    ours = found["runs"]["approx_fx"]
    assert ours["warm_seconds"] > 0 and ours["samples"] == 3 and 0 < ours["gradient"]["cosine"] <= 1
    assert 0 < ours["forward_seconds"] + ours["backward_seconds"] <= ours["step_seconds"]
    assert set(found["ratio"]) == {"step", "compile", "peak", "saved"} and saved == [2, 3, 3]
    with pytest.raises(RuntimeError, match="eager: ValueError: not op by op"):
        compare(f"{path}:make", 3, config, steps=1, against=("eager",))
    turns: list[int] = []
    with ExitStack() as stack:
        stack.callback(lambda: turns.append(len(saved)))
        saved.clear()
        found = compare(f"{path}:make", 4, config, steps=1, against=("approx_fx@exact",), turn=stack,
                        save=lambda runs: saved.append(len(runs)))  # fmt: skip
        assert turns == [1] and found["runs"]["approx_fx"]["step_seconds"] > 0


def test_without_a_run_to_refer_to_there_are_no_ratios() -> None:
    job = Job("approx_fx", "net:make", 3, "float32", Config(), "")
    found = _summary({"approx_fx": run_of(1, 1), "compile": {"failed": "no"}}, "compile", {}, job)
    assert found["ratio"] is found["gradient"] is found["loss_equal"] is None


def test_deadline() -> None:
    now = [100.0]
    deadline = Deadline(60, lambda: now[0])
    assert (deadline.left(), deadline.allowance(90), deadline.allowance(20), deadline.allowance(90, 5)) == (
        60,
        60,
        20,
        55,
    )
    now[0] += 70
    assert deadline.left() == deadline.allowance(10) == 0


@pytest.mark.parametrize(
    ("code", "seconds", "failed"),
    [
        ("", 20, None),
        ("raise ValueError('broken')", 20, "exit status 1: ValueError: broken"),
        ("import time; time.sleep(60)", 1.5, "stopped after 2 s, the time it had; what it had measured is kept"),
    ],
)
def test_a_section_keeps_what_it_measured(tmp_path: Path, code: str, seconds: float, failed: str | None) -> None:
    part = tmp_path / "part.json"
    code = f"import pathlib\npathlib.Path({str(part)!r}).write_text('{{\"value\": 3}}')\n{code}"
    seen: list[dict[str, Any]] = []
    found = run_section([sys.executable, "-c", code], part, seconds, seen.append, {})
    assert found["value"] == 3 and found["failed"] == failed and seen[-1] == found


@pytest.mark.cpp
@without_a_gpu
def test_the_gpu_run_without_a_gpu() -> None:
    done = subprocess.run([sys.executable, "tools/gpu.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "There is no CUDA GPU here, so nothing was measured.\n"
    wrong = [sys.executable, "tools/gpu.py", "--only", "op"]
    done = subprocess.run(wrong, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "There is no section 'op'; known are ops, cifar10, networks" in done.stderr


@pytest.mark.cpp
@without_a_gpu
def test_a_section_that_raises_is_recorded_and_one_without_time_left_out(tmp_path: Path) -> None:
    sections = [each for each in SECTIONS if each.name in ("bandwidth", "deep")]
    now = iter([0.0, 0.0, *[55.0] * 100])
    data = gpu.run_all(sections, [], Deadline(60, lambda: next(now)), tmp_path / "gpu-x", environment())
    assert data["sections"]["bandwidth"]["failed"].startswith("exit status 1: ")
    assert data["sections"]["deep"]["left_out"] == "the time of the whole run was over"
    assert json.loads((tmp_path / "gpu-x.json").read_text())["sections"] == data["sections"]
    assert "Left out: the time of the whole run was over." in (tmp_path / "gpu-x.md").read_text()


def test_what_is_timed_is_timed_alone_once_all_are_ready() -> None:
    """Three that get ready in turn, one that fails before, one that is too late for the others to wait."""
    seen: list[str] = []
    late = threading.Event()

    def job(name: str, ready: float) -> Callable[[Ticket], None]:
        def run(ticket: Ticket) -> None:
            time.sleep(ready)
            seen.append(f"{name} ready")
            with ticket:
                seen.append(f"{name} starts")
                time.sleep(0.02)
                seen.append(f"{name} ends")

        return run

    def failing(ticket: Ticket) -> None:
        seen.append("failed")

    def slow(ticket: Ticket) -> None:
        late.wait(10)

    side_by_side({"a": job("a", 0), "b": job("b", 0.1), "c": job("c", 0.2), "d": failing}, 60)
    readies = [index for index, text in enumerate(seen) if "ready" in text or text == "failed"]
    assert readies == [0, 1, 2, 3]
    timed = seen[4:]
    assert [text.split()[1] for text in timed] == ["starts", "ends"] * 3
    assert all(first.split()[0] == second.split()[0] for first, second in zip(timed[::2], timed[1::2], strict=True))
    seen.clear()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(side_by_side, {"a": job("a", 0), "late": slow}, 0.3)
        while "a ends" not in seen and not done.done():
            time.sleep(0.01)
        assert not done.done()
        late.set()


def test_kernels_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of a name are added up, what runs on the host is not, and the longest comes first."""
    kinds = torch.autograd.DeviceType
    seen = (("a", kinds.CUDA, 20.0), ("b", kinds.CUDA, 90.0), ("a", kinds.CUDA, 10.0), ("c", kinds.CPU, 500.0))
    events = [SimpleNamespace(name=name, device_type=kind, device_time_total=long) for name, kind, long in seen]
    monkeypatch.setattr(
        "approx_fx.bench.gpu_profile.profile", lambda **_: nullcontext(SimpleNamespace(events=lambda: events))
    )
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    steps: list[int] = []
    found = kernels(lambda: steps.append(1), 2)
    assert found == [Kernel("b", 0.5, 45e-6), Kernel("a", 1.0, 15e-6)] and len(steps) == 2


def test_the_gpu_page() -> None:
    log = "tests/a.py::x[1 2] PASSED [ 1%]\ntests/a.py::y FAILED [2%]\ntests/a.py::z SKIPPED (no) [3%]\ntests/a.py::w "
    counts = gpu_sections.count_outcomes(log, 5)
    assert counts == {"passed": 1, "failed_tests": 1, "skipped": 1, "unfinished": 2, "failures": ["tests/a.py::y"]}
    rows = [{"op": "quantize_unit", "dtype": "float32", "kind": "kernel", "gigabytes_per_second": 2000.0, "share": 0.8},
            {"op": "group", "dtype": "float16", "kind": "inductor", "failed": "no"}]  # fmt: skip
    sections = {
        "ops": {**counts, "seconds": 50.0, "failed": None},
        "bandwidth": {"copy_gigabytes_per_second": 2500.0, "rows": rows, "seconds": 9.0},
        "largest": {"compile": {"batch": 512, "failed": "out of memory"}, "approx_fx": {"batch": 900}},
        "networks": {"vit_small": entry(), "failed": "exit status 1: no"},
    }
    titles = {each.name: each.title for each in SECTIONS}
    data = {**environment(), "seconds": 300.0, "allowed_seconds": 530.0, "sections": sections}
    page = gpu_page.render(json.loads(json.dumps(data)), titles)
    for part in ("| 1 | 1 | 1 | 2 |", "- failed: `tests/a.py::y`", "| 2000 GB/s | 80% |",
                 "| compile | 512 | - | - | out of memory |", "### vit_small, batch 32", "Not run."):  # fmt: skip
        assert part in page, part
    assert "cannot be shown" not in page


def test_recipes_of_the_bandwidth_fit_the_ops() -> None:
    from approx_fx.ops import OPS
    from tools.lib.measuring.kernels import RECIPES, moved

    x = torch.randn(4, 256, 4, 4).to(memory_format=torch.channels_last)
    for recipe in RECIPES:
        arguments = recipe.prepare(x)
        codes = OPS[recipe.encode].reference(*arguments)
        back = recipe.decode_arguments(x, arguments, codes)
        decoded = OPS[recipe.decode].reference(*back)
        assert decoded.shape == x.shape and OPS[recipe.encode].overload is not None
        assert moved(arguments, codes) > arguments[0].numel() * arguments[0].element_size()


def test_a_results_command_names_no_place_of_the_machine(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    bench, package = str(root / "tools" / "bench.py"), str(root / "tools" / "reproduce" / "__main__.py")
    assert command([bench, "run", "--out", str(tmp_path), "--again"]) == "python tools/bench.py run --again"
    assert command([package, "memory", f"--out={tmp_path}", "--quick"]) == "python -m tools.reproduce memory --quick"
    assert command([str(tmp_path / "pytest"), "-q"]) == "python pytest -q"
