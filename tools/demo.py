"""`make demo`: train a small ResNet exactly and with 8, 4 and 2 bits; write a table, a picture and a report.

    python tools/demo.py

Gradients, peak memory and step times are measured before training, when all four models have the same weights; the
models' steps alternate, so that changes of the machine's speed affect all alike.
"""

from __future__ import annotations

import io
import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

if not __package__:
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from torch import Tensor

from approx_fx.bench.live_bytes import peak_bytes
from tools.lib.batches import train_batches
from tools.lib.checkpoint import write_text
from tools.lib.cli_common import errors_as_sentences, progress_bar, report_epoch
from tools.lib.datasets import load, upscale
from tools.lib.repo_path import ROOT
from tools.lib.run_log import environment, finite, megabytes
from tools.lib.settings import COMPILERS, Epoch, Settings, label
from tools.lib.training import Run
from tools.lib.training_curves import plot
from tools.lib.user_errors import pick

BITS = (None, 8, 4, 2)
ROUNDS = 15

app = typer.Typer(add_completion=False)
console = Console()


@dataclass(frozen=True)
class Row:
    """One line of the table. Accuracy is 0..1, sizes are bytes; the cosine is of the whole gradient vector."""

    bits: int | None
    test_accuracy: float
    saved_before: int
    saved_after: int
    peak_bytes: int
    step_ms: float
    gradient_cosine: float
    compile_seconds: float


@app.command()
def main(
    epochs: Annotated[int, typer.Option(min=1)] = 8,
    batch: Annotated[int, typer.Option(min=2)] = 128,
    compiler: Annotated[str, typer.Option(help=f"One of {', '.join(COMPILERS)}.")] = "inductor",
    out: Annotated[
        Path, typer.Option(help="Folder for the picture and the report.", show_default="out/demo in the repository")
    ] = ROOT / "out" / "demo",
) -> None:
    """Train ResNet-20 on the digits exactly and with 8, 4 and 2 bits; under three minutes on two cores."""
    with errors_as_sentences():
        common = Settings("digits", "resnet20", None, 0, epochs, batch, compiler=pick("compiler", compiler, COMPILERS))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dataset = upscale(load(common.data), 2).to(device)
        runs = [Run(replace(common, bits=bits), dataset, device) for bits in BITS]
        with progress_bar(console) as progress:
            compile_all(runs, progress)
            x, y = next(train_batches(dataset, batch, common.seed, epoch=0))
            gradients, peaks, times = measure(runs, x, y, progress)
            train_all(runs, progress)
    before = next(run.record().saved_before for run in runs if run.settings.bits is not None) or 0
    rows = [
        Row(
            bits=run.settings.bits,
            test_accuracy=run.history[-1].test_accuracy,
            saved_before=before,
            saved_after=before if run.settings.bits is None else run.record().saved_after or 0,
            peak_bytes=peak,
            step_ms=1000 * statistics.median(seconds),
            gradient_cosine=cosine(gradient, gradients[0]),
            compile_seconds=run.compile_seconds,
        )
        for run, gradient, peak, seconds in zip(runs, gradients, peaks, times, strict=True)
    ]
    title = f"ResNet-20, digits at 16x16, batch {batch}, {epochs} epochs, {environment(device)['device']}"
    table = tabulate(rows, title)
    console.print(table)
    write(out, runs, rows, table, title)


def compile_all(runs: list[Run], progress: Progress) -> None:
    """Build and compile every model."""
    task = progress.add_task("compile", total=len(runs), state="")
    torch.compiler.reset()
    for run in runs:
        progress.update(task, state=label(run.settings.bits))
        run.prepare()
        progress.advance(task)
    progress.update(task, state="")


def measure(
    runs: list[Run], x: Tensor, y: Tensor, progress: Progress
) -> tuple[list[Tensor], list[int], list[list[float]]]:
    """Measure gradients (one vector a run), peak bytes of a step, and ROUNDS step times in seconds, on one batch.

    A step is forward, loss and backward. The models' running statistics are restored afterwards.
    """
    task = progress.add_task("measure", total=ROUNDS, state="")
    states = [{name: value.clone() for name, value in run.model.state_dict().items()} for run in runs]
    gradients = []
    for run in runs:
        run.gradient(x, y)
        gradients.append(torch.cat([p.grad.double().flatten() for p in run.model.parameters() if p.grad is not None]))
    for run in runs:
        run.optimizer.zero_grad(set_to_none=True)
    peaks = [step_peak(run, x, y) for run in runs]
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for run, seconds in zip(runs, times, strict=True):
            start = clock(run.device)
            run.gradient(x, y)
            seconds.append(clock(run.device) - start)
        progress.advance(task)
    for run, state in zip(runs, states, strict=True):
        run.model.load_state_dict(state)
        run.optimizer.zero_grad(set_to_none=True)
    return gradients, peaks, times


def train_all(runs: list[Run], progress: Progress) -> None:
    """Train every model for all its epochs."""
    for run in runs:
        name = f"train {label(run.settings.bits)}"
        task = progress.add_task(name, total=run.settings.epochs * run.steps, state="")

        def on_epoch(epoch: Epoch, task: TaskID = task, name: str = name) -> None:
            report_epoch(console, progress, task, name, epoch)

        run.train(partial(progress.advance, task), on_epoch)


def step_peak(run: Run, x: Tensor, y: Tensor) -> int:
    """Peak bytes of gradients and activations in one step, above the bytes alive before it."""

    def step() -> None:
        run.gradient(x, y)
        run.optimizer.zero_grad(set_to_none=True)

    if run.device.type != "cuda":
        return peak_bytes(step)
    torch.cuda.reset_peak_memory_stats(run.device)
    before = torch.cuda.memory_allocated(run.device)
    step()
    return torch.cuda.max_memory_allocated(run.device) - before


def clock(device: torch.device) -> float:
    """The time in seconds, after synchronizing the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two vectors [P]; NaN if one is zero."""
    return float(a @ b / (a.norm() * b.norm()))


def tabulate(rows: list[Row], title: str) -> Table:
    """The table that `main` prints."""
    table = Table(title=title)
    for heading in ("bits", "test accuracy %", "saved MB", "step's peak MB", "step ms", "gradient cosine"):
        table.add_column(heading, justify="right")
    for row in rows:
        before_and_after = f"{megabytes(row.saved_before)} → {megabytes(row.saved_after)}"
        table.add_row(
            label(row.bits),
            f"{100 * row.test_accuracy:.2f}",
            megabytes(row.saved_before) if row.bits is None else before_and_after,
            megabytes(row.peak_bytes),
            f"{row.step_ms:.1f}",
            f"{row.gradient_cosine:.4f}",
        )
    return table


def write(out: Path, runs: list[Run], rows: list[Row], table: Table, title: str) -> None:
    """Write demo.png, report.txt and report.json to `out`, and print their paths."""
    records = [run.record() for run in runs]
    plot(records, out / "demo.png", title, saved={row.bits: row.saved_after for row in rows})
    reports = {label(run.settings.bits): run.report for run in runs if run.report is not None}
    texts = [f"{bits} bits\n\n{report}\n" for bits, report in reports.items()]
    wide = Console(width=120, record=True, file=io.StringIO())
    wide.print(table)
    write_text(out / "report.txt", "\n".join([wide.export_text(), *texts]))
    content = {
        "schema": 1,
        "title": title,
        "settings": runs[0].settings.common(),
        "environment": environment(runs[0].device),
        "rows": [asdict(row) for row in rows],
        "runs": [asdict(record) for record in records],
        "reports": {bits: json.loads(report.to_json()) for bits, report in reports.items()},
    }
    write_text(out / "report.json", json.dumps(finite(content), indent=2, allow_nan=False) + "\n")
    for name, what in (("demo.png", "curves"), ("report.txt", "report"), ("report.json", "the same for programs")):
        console.print(f"{what}: {out / name}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    app()
