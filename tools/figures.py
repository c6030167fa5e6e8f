"""Measure figures of the README and docs/benchmarks.md (`explain`, `gradients`), and write their tables (`readme`)."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import typer

if not __package__:
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

from tools import gpu_code
from tools.lib.chain_picture import draw
from tools.lib.markdown_tables import fill
from tools.lib.measuring.environment import revision, revision_note
from tools.lib.repo_path import ROOT

RESULTS = ROOT / "docs" / "results"
README = ROOT / "README.md"
BENCHMARKS = ROOT / "docs" / "benchmarks.md"
BENCH = "bench-cpu-avx512"  # of the two machines measured, the one with results of the latest revision

# target, batch, bits, dtype
EXPLAIN = (
    ("models.resnet:resnet18_cifar", 32, 4, "float32"),
    ("models.resnet:resnet18_cifar", 32, 2, "float32"),
    ("models.resnet:resnet18_cifar", 32, 4, "bfloat16"),
    ("models.resnet:resnet50", 8, 4, "float32"),
    ("models.preact_resnet:preact_resnet164", 32, 4, "float32"),
    ("models.densenet:densenet121", 16, 4, "float32"),
    ("models.vgg:vgg16_bn", 32, 4, "float32"),
    ("models.gpt:gpt_small", 4, 4, "float32"),
    ("models.gpt:gpt_small", 4, 4, "bfloat16"),
    ("models.llama:llama_tiny", 4, 4, "float32"),
    ("models.llama:llama_tiny", 4, 4, "bfloat16"),
    ("models.vit:vit_small", 16, 4, "float32"),
    ("models.vit:vit_small", 16, 4, "bfloat16"),
    ("models.lstm:char_lstm", 32, 4, "float32"),
    ("models.lstm:char_lstm", 32, 4, "bfloat16"),
    ("models.lstm:nn_lstm", 32, 4, "float32"),
    ("models.lstm:nn_lstm", 32, 4, "bfloat16"),
    ("models.unet:unet_small", 8, 4, "float32"),
    ("models.unet:unet_small", 8, 4, "bfloat16"),
    ("models.mobilenet:mobilenet_v2", 8, 4, "float32"),
    ("models.convnext:convnext_tiny", 8, 4, "float32"),
)
# target, batch: their gradients are compared with exact ones, op by op
GRADIENTS = (
    ("models.gpt:gpt_small", 1),
    ("models.llama:llama_tiny", 4),
    ("models.vit:vit_small", 4),
    ("models.lstm:char_lstm", 32),
    ("models.lstm:nn_lstm", 32),
    ("models.unet:unet_small", 8),
    ("models.mobilenet:mobilenet_v2", 4),
    ("models.convnext:convnext_tiny", 2),
)
MEBI = 2**20

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command()
def explain() -> None:
    """Run `approx-fx explain` for every network, which runs none of the networks, and write explain.json."""
    rows = []
    for target, batch, bits, dtype in EXPLAIN:
        arguments = ["explain", target, "--batch", str(batch), "--bits", str(bits), "--dtype", dtype]
        data = _approx_fx(arguments)
        rows.append({"command": " ".join(arguments), "saved_bytes": data["saved_bytes"], "ratio": data["ratio"]})
        print(rows[-1])
    _write("explain", {"rows": rows})


@app.command()
def gradients() -> None:
    """Measure the cosine of the gradient in few bits and the exact one, in one step of each network, op by op."""
    import copy

    import torch

    import approx_fx
    from approx_fx.bench.compare import flat_gradients
    from approx_fx.bench.target import load

    rows = []
    for target, batch in GRADIENTS:
        loaded = load(target, batch)
        loaded.loss(loaded.model(*loaded.inputs)).backward()
        exact = flat_gradients(loaded.model)
        cosines = {}
        for bits in (8, 4, 2):
            torch._dynamo.reset()
            converted = copy.deepcopy(loaded.model)
            converted.zero_grad()
            approx_fx.convert(converted, bits=bits, compiler="eager", strict=True)
            loaded.loss(converted(*loaded.inputs)).backward()
            gradient = flat_gradients(converted)
            cosines[str(bits)] = float(gradient @ exact / (gradient.norm() * exact.norm()))
        rows.append({"target": target, "batch": batch, "cosine": cosines})
        print(rows[-1], flush=True)
    _write("gradients", {"rows": rows})


@app.command()
def readme() -> None:
    """Rewrite the tables of the README and of docs/benchmarks.md from the result files."""
    tables = {
        "explain": _explain_table(),
        "gradients": _gradients_table(),
        "bench": _bench_table(),
        "passes": _passes_table(),
        "gpu": _gpu_table("gpu-nvidia-h100-80gb-hbm3"),
        "gpu-code": gpu_code.table(_read("gpu-code")),
        "cifar10": _cifar10_table(),
        "shakespeare": _shakespeare_table(),
        "zoo": _zoo_line(),
    }
    for page, page_tables in ((README, {"summary": _summary_table()}), (BENCHMARKS, tables)):
        page.write_text(fill(page.read_text(), page_tables, page.name))
    draw(RESULTS / "chain.png", _read("explain")["rows"])


def _explain_table() -> str:
    data = _read("explain")
    lines = ["| command | torch.compile saves | approx_fx saves | ratio |", "|---|---|---|---|"]
    for row in data["rows"]:
        before, after = row["saved_bytes"]["before"] / MEBI, row["saved_bytes"]["after"] / MEBI
        lines.append(f"| `approx-fx {row['command']}` | {before:.1f} MiB | {after:.1f} MiB | {row['ratio']:.1f}x |")
    return "\n".join(
        [*lines, "", f"{data['machine']}, {data['date']}{revision_note(data)}; `python tools/figures.py explain`"]
    )


def _gradients_table() -> str:
    data = _read("gradients")
    lines = ["| network, batch | 8 bits | 4 bits | 2 bits |", "|---|---|---|---|"]
    for row in data["rows"]:
        cosines = row["cosine"]
        name = row["target"].split(":")[1]
        lines.append(f"| {name}, {row['batch']} | {cosines['8']:.5f} | {cosines['4']:.4f} | {cosines['2']:.3f} |")
    return "\n".join(
        [*lines, "", f"{data['machine']}, {data['date']}{revision_note(data)}; `python tools/figures.py gradients`"]
    )


def _gpu_table(name: str) -> str:
    data = _read(name)
    lines = [
        "| network, batch, dtype | kernels, in a step | step | peak above parameters | cosine of the gradient |",
        "|---|---|---|---|---|",
    ]
    for network, result in data["sections"]["networks"].items():
        if not isinstance(result, dict) or not result.get("ratio"):
            continue
        coded, compiled, eager = (result["runs"].get(system, {}) for system in ("approx_fx", "compile", "eager"))
        times = [
            f"{1e3 * coded[key]:.1f} ms ({1e3 * compiled[key]:.1f}), {coded[key] / compiled[key]:.2f}x"
            for key in ("busy_seconds", "step_seconds")
        ]
        sizes = (coded["peak_bytes"] / MEBI, compiled["peak_bytes"] / MEBI)
        peak = f"{sizes[0]:.0f} MiB ({sizes[1]:.0f}), {sizes[1] / sizes[0]:.1f}x"
        cosine = (
            f"{coded['gradient']['cosine']:.4f} ({eager['gradient']['cosine']:.4f})" if "gradient" in eager else "-"
        )
        lines.append(
            f"| {network}, {result['batch']}, {result['dtype']} | {times[0]} | {times[1]} | {peak} | {cosine} |"
        )
    where = f"{data['device']}, {data['cpus']} CPUs, torch {data['torch']}, {data['date'][:10]}"
    note = "In brackets torch.compile's, and for the cosine that of PyTorch op by op, with nothing coded"
    return "\n".join([*lines, "", f"{note}; {where}; `make gpu`"])


def _shakespeare_table() -> str:
    data = _read("shakespeare")
    lines = ["| model | exact | 4 bits | difference | each seed, exact / 4 bits |", "|---|---|---|---|---|"]
    means = {(row["model"], row["bits"]): row["validation_loss"] for row in data["means"]}
    for model in dict.fromkeys(row["model"] for row in data["means"]):
        exact, coded = means[model, None], means[model, 4]
        runs = {(run["seed"], run["bits"]): run["validation_loss"] for run in data["runs"] if run["model"] == model}
        seeds = sorted({seed for seed, _ in runs})
        by_seed = ", ".join(f"{runs[seed, None]:.3f} / {runs[seed, 4]:.3f}" for seed in seeds)
        lines.append(f"| {model} | {exact:.4f} | {coded:.4f} | {100 * (coded / exact - 1):+.2f} % | {by_seed} |")
    steps = data["runs"][0]["steps"]
    return "\n".join([*lines, "", f"torch {data['torch']}, {data['date']}; `python tools/text.py --steps {steps}`"])


def _zoo_line() -> str:
    page = (RESULTS / "zoo.md").read_text().splitlines()
    return f"{page[2]} [The whole table](results/zoo.md)."


def _summary_table() -> str:
    """The README's table: the main ratios of each network that tools/bench.py measured in float32."""
    data = _read(BENCH)
    lines = ["| network, batch | saved | peak | step | first step | gradient cosine |", "|---|---|---|---|---|---|"]
    for key, entry in data["entries"].items():
        name, dtype = key.split()
        if dtype == "float32":
            ratio, cosine = entry["ratio"], entry["gradient"]["cosine"]
            lines.append(
                f"| {name}, {entry['runs']['approx_fx']['samples']} | {ratio['saved']:.1f}x smaller "
                f"| {ratio['peak']:.1f}x smaller | {ratio['step']:.2f}x | {ratio['compile']:.2f}x | {cosine:.3f} |"
            )
    return "\n".join([*lines, "", f"{_where(data)}; `python tools/bench.py run`"])


def _where(data: dict[str, Any]) -> str:
    """The machine, torch version, date and revision of a result file."""
    return (
        f"{data['device']}, {data['threads']} threads, torch {data['torch']}, {data['date'][:10]}{revision_note(data)}"
    )


def _bench_table() -> str:
    """All networks that tools/bench.py measured: approx_fx at 4 bits against torch.compile."""
    data = _read(BENCH)
    lines = [
        "| network, batch | step | first step | warm | peak | saved | gradient cosine | loss equal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, entry in data["entries"].items():
        coded, compiled, ratio = entry["runs"]["approx_fx"], entry["runs"]["compile"], entry["ratio"]
        warm = "-"
        if "warm_seconds" in coded and "warm_seconds" in compiled:
            warm = f"{coded['warm_seconds'] / compiled['warm_seconds']:.2f}x time"
        lines.append(
            f"| {key}, {coded['samples']} | {ratio['step']:.2f}x time | {ratio['compile']:.2f}x time | {warm} "
            f"| {ratio['peak']:.1f}x smaller | {ratio['saved']:.1f}x smaller | {entry['gradient']['cosine']:.4f} "
            f"| {'bit for bit' if entry['loss_equal'] else 'no'} |"
        )
    mean = data["geometric_mean"]["float32"]
    means = f"{mean['step']:.2f}x time | {mean['compile']:.2f}x time"
    lines.append(f"| geometric mean of {mean['entries']} | {means} | | | | | |")
    systems = {name for entry in data["entries"].values() for name in entry["runs"]}
    command = "python tools/bench.py run" + (f" --systems {','.join(sorted(systems))}" if len(systems) == 2 else "")
    return "\n".join([*lines, "", f"{_where(data)}; `{command}`"])


def _passes_table() -> str:
    """Seconds of the pass and of torch.compile's own partition, measured by tools/passes.py."""
    data = _read("passes")
    lines = [
        "| network | nodes of the joint graph | approx_fx | of them: simplify, ask what torch saves | torch.compile |",
        "|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        seconds = row["seconds"]
        lines.append(
            f"| {row['target'].split(':')[1]} | {row['nodes']} | {seconds['approx_fx']:.1f} s "
            f"| {seconds['asking']:.1f} s | {seconds['compile']:.1f} s |"
        )
    return "\n".join([*lines, "", f"{_where(data)}; `python tools/passes.py`"])


def _cifar10_table() -> str:
    path = RESULTS / "cifar10.json"
    if not path.exists():
        return "(not measured yet)"
    data = json.loads(path.read_text())
    lines = [
        "| bits | test accuracy, mean and deviation of the seeds | each seed | saved for backward |",
        "|---|---|---|---|",
    ]
    for row in data["summary"]:
        runs = [run for run in data["runs"] if run["bits"] == row["bits"]]
        by_seed = ", ".join(f"{100 * run['history'][-1]['test_accuracy']:.2f}" for run in runs)
        name = "exact" if row["bits"] is None else row["bits"]
        saved = f"{row['saved_before'] / MEBI:.1f} -> {row['saved_after'] / MEBI:.1f} MiB" if row["saved_after"] else ""
        mean, deviation = 100 * row["test_accuracy_mean"], 100 * row["test_accuracy_sd"]
        lines.append(f"| {name} | {mean:.2f} % +- {deviation:.2f} | {by_seed} | {saved} |")
    where = f"{data['environment']['device']}, torch {data['environment']['torch']}, {data['date'][:10]}"
    command = "python tools/train.py --data cifar10 --model resnet20 --bits exact,4 --epochs 3 --seeds 0,1,2"
    return "\n".join([*lines, "", f"{where}; `{command}`"])


def _approx_fx(arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "approx_fx.cli", *arguments, "--json"]
    completed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(completed.stdout)


def _machine() -> str:
    import torch

    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _write(name: str, data: dict[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    data = {"date": date.today().isoformat(), "machine": _machine(), "revision": revision(), **data}
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=2) + "\n")


def _read(name: str) -> dict[str, Any]:
    path = Path(RESULTS / f"{name}.json")
    if not path.exists():
        raise SystemExit(f"{path.name} is missing: run `python tools/figures.py {name}` first")
    return json.loads(path.read_text())


if __name__ == "__main__":
    app()
