"""Table 2: memory and largest batch of pre-activation ResNets of depth 20 to 1001, predicted; one depth is measured.

Predictions come from `approx_fx.explain`, with fake tensors, at two batches; the largest batch is extrapolated linearly
from the two predicted peaks. Parameters and images are not counted; gradients of parameters only in the peak.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch

import approx_fx
from approx_fx.bench.baselines import OURS
from approx_fx.bench.compare import compare
from approx_fx.config import Config
from approx_fx.report.data import Report
from models.factory import seeded
from models.preact_resnet import preact_resnet
from tools.lib.checkpoint import write_text
from tools.lib.measuring.calculations import extrapolated_batch
from tools.lib.measuring.environment import environment
from tools.reproduce.comparison import save
from tools.reproduce.sizes import Size
from tools.reproduce.table_cells import table

matplotlib.use("Agg")

from matplotlib import pyplot as plt

WIDTHS = (8, 4, 2)
BATCHES = (16, 32)
MEMORY = 2**30
DEEP = 488  # deeper nets take minutes to trace and are predicted at 4 bits only
MEBI = 2**20
AGAINST = ("compile", "approx_fx@8", "approx_fx@2")
BATCH, STEPS = 64, 9
MEASURED = {20: "models.preact_resnet:preact_resnet20"}  # depth -> target of the nets that are also run
HEADS = ("depth", "width", "saved, MiB", "predicted peak, MiB", "smaller by", "largest batch in 1 GiB", "times exact's")
RUN_HEADS = ("depth", "system", "peak, MiB", "microseconds a sample")


def measure(size: Size, out: Path) -> None:
    """Predict every depth, run the small one, draw; results that the file has are not computed again."""
    path = out / "memory.json"
    data: dict[str, Any] = (
        json.loads(path.read_text()) if path.exists() else {**environment(), "explained": {}, "run": {}}
    )

    def store() -> None:
        write_text(path, json.dumps(data, indent=1) + "\n")

    for depth in size.depths:
        if str(depth) not in data["explained"]:
            start = time.perf_counter()
            data["explained"][str(depth)] = {**explained(depth), "seconds": time.perf_counter() - start}
            print(f"depth {depth} explained in {data['explained'][str(depth)]['seconds']:.0f} s", flush=True)
            store()
    for depth, target in MEASURED.items() if size.compiler == "inductor" else ():
        if str(depth) not in data["run"]:
            data["run"][str(depth)] = compare(target, BATCH, Config(bits=4), "float32", STEPS, AGAINST, print)["runs"]
            store()
    draw(data["explained"], out / "memory.png")


def explained(depth: int) -> dict[str, Any]:
    """Width ('exact', '8', '4', '2') -> saved and peak bytes at the larger of BATCHES, and the largest batch."""
    results: dict[str, Any] = {}
    for bits in WIDTHS if depth <= DEEP else (4,):
        small, large = (report_of(depth, bits, batch) for batch in BATCHES)
        sides = {str(bits): "after"} if results else {"exact": "before", str(bits): "after"}
        for name, side in sides.items():
            saved = large.saved_before if side == "before" else large.saved_after
            peaks = [
                (batch, report.predicted_peak[side]) for batch, report in zip(BATCHES, (small, large), strict=True)
            ]
            batch = extrapolated_batch(peaks[0], peaks[1], MEMORY)
            results[name] = {"saved_bytes": saved, "peak_bytes": peaks[1][1], "largest_batch": batch}
    return results


def report_of(depth: int, bits: int, batch: int) -> Report:
    """The report of approx_fx.explain for a pre-activation ResNet of this depth."""
    model, inputs = seeded(partial(preact_resnet, depth), (batch, 3, 32, 32))
    torch.compiler.reset()
    return approx_fx.explain(model, *inputs, bits=bits)


def draw(by_depth: dict[str, Any], path: Path) -> None:
    """Plot the largest batch against depth, one line for each width."""
    figure, axis = plt.subplots(figsize=(6, 4.2), layout="constrained")
    depths = sorted(map(int, by_depth))
    colours = {"exact": "#000000", "8": "#0072B2", "4": "#D55E00", "2": "#009E73"}
    for name, colour in colours.items():
        measured = [depth for depth in depths if name in by_depth[str(depth)]]
        batches = [by_depth[str(depth)][name]["largest_batch"] for depth in measured]
        axis.plot(measured, batches, "o-", color=colour, label=name if name == "exact" else f"{name} bits")
    axis.set(xlabel="depth", ylabel="largest batch in 1 GiB, predicted", xscale="log", yscale="log")
    axis.set_xticks(depths, map(str, depths))
    axis.minorticks_off()
    axis.legend()
    axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def page(size: Size, out: Path) -> str:
    """Two Markdown tables, of the predictions and of the runs, with their footnote."""
    path = out / "memory.json"
    if not path.exists():
        return "Not measured yet: `python -m tools.reproduce memory`"
    data = json.loads(path.read_text())
    rows = []
    for depth, widths in data["explained"].items():
        for name in (name for name in ("exact", *map(str, WIDTHS)) if name in widths):
            row, exact = widths[name], widths["exact"]
            rows.append((
                depth, name if name == "exact" else f"{name} bits", f"{row['saved_bytes'] / MEBI:.1f}",
                f"{row['peak_bytes'] / MEBI:.1f}", f"{exact['saved_bytes'] / row['saved_bytes']:.1f}x",
                str(row["largest_batch"]), f"{row['largest_batch'] / exact['largest_batch']:.1f}x",
            ))  # fmt: skip
    runs = [
        (depth, {OURS: f"{OURS}@4"}.get(name, name), f"{run['peak_bytes'] / MEBI:.1f}", f"{_microseconds(run):.0f}")
        for depth, systems in data["run"].items()
        for name, run in systems.items()
        if "failed" not in run
    ]
    explain_seconds = sum(widths["seconds"] for widths in data["explained"].values())
    where = f"{data['device']}, torch {data['torch']}, {data['date'][:10]}"
    how = f"Run at batch {BATCH}, medians of {STEPS} alternated steps"
    measured = f"\n\n{how}:\n\n{table(RUN_HEADS, runs)}" if runs else ""
    return (
        f"Explained at batch {BATCHES[1]}, images of 32x32, in float32. The largest batch has a predicted peak of 1 "
        f"GiB; parameters, the optimizer's state and the images come on top:\n\n{table(HEADS, rows)}{measured}\n\n"
        f"{where}; explaining took {explain_seconds:.0f} s; `python -m tools.reproduce memory`"
    )


def _microseconds(run: dict[str, Any]) -> float:
    """Step time in microseconds a sample."""
    return float(1e6 * run["step_seconds"] / BATCH)
