"""Train a model exactly and with few bits, and plot the curves side by side.

    python tools/train.py --data digits --model resnet20 --bits exact,4,2 --epochs 10 --out out/digits

Every (bits, seed) is one run. The same seed gives the same initial weights and the same batches for every number of
bits. The same command, run again, continues where it was stopped.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

if not __package__:
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import typer
from rich.console import Console
from rich.progress import TaskID

from tools.lib.cli_common import errors_as_sentences, progress_bar, report_epoch
from tools.lib.datasets import LOADERS, Dataset, load
from tools.lib.model_registry import MODELS
from tools.lib.optimizers import LEARNING_RATES, SCHEDULES
from tools.lib.run_log import RunLog
from tools.lib.settings import COMPILERS, GRIDS, Epoch, Settings, label
from tools.lib.training import Run
from tools.lib.training_curves import plot
from tools.lib.user_errors import UserError, pick

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def main(
    data: Annotated[str, typer.Option(help=f"One of {', '.join(LOADERS)}.")] = "digits",
    model: Annotated[str, typer.Option(help=f"One of {', '.join(MODELS)}.")] = "resnet20",
    bits: Annotated[str, typer.Option(help="Comma-separated: exact, or 2 to 8.")] = "exact,8,4,2",
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    seeds: Annotated[str, typer.Option(help="Comma-separated, 0 or more.")] = "0",
    batch: Annotated[int, typer.Option(min=2)] = 128,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; default 0.1 for sgd, else 0.001.")] = None,
    optimizer: Annotated[str, typer.Option(help=f"One of {', '.join(LEARNING_RATES)}.")] = "sgd",
    schedule: Annotated[str, typer.Option(help=f"One of {', '.join(SCHEDULES)}.")] = "onecycle",
    weight_decay: Annotated[float, typer.Option(min=0.0)] = 5e-4,
    augment: Annotated[bool | None, typer.Option(help="Random crop and flip; default for cifar10 alone.")] = None,
    compiler: Annotated[str, typer.Option(help=f"One of {', '.join(COMPILERS)}.")] = "inductor",
    grid: Annotated[str, typer.Option(help=f"One of {', '.join(GRIDS)}.")] = "gaussian",
    out: Annotated[Path, typer.Option(help="Folder for curves, logs and checkpoints.")] = Path("out/train"),
    root: Annotated[Path | None, typer.Option(help="Folder of the data files, searched first.")] = None,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Continue, or throw away what OUT holds.")] = True,
) -> None:
    """Train MODEL on DATA once for every number of bits and every seed."""
    with errors_as_sentences():
        settings = [
            Settings(
                data=pick("data set", data, LOADERS),
                model=pick("model", model, MODELS),
                bits=bit,
                seed=seed,
                epochs=epochs,
                batch=batch,
                lr=LEARNING_RATES[pick("optimizer", optimizer, LEARNING_RATES)] if lr is None else lr,
                optimizer=pick("optimizer", optimizer, LEARNING_RATES),
                schedule=pick("schedule", schedule, SCHEDULES),
                weight_decay=weight_decay,
                augment=data == "cifar10" if augment is None else augment,
                compiler=pick("compiler", compiler, COMPILERS),
                grid=pick("grid", grid, GRIDS),
            )
            for seed in parse_seeds(seeds)
            for bit in parse_bits(bits)
        ]
        if not resume:
            clear(out)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        results = RunLog(out, settings[0].common(), device)
        dataset = load(data, root).to(device)
        train_all(settings, dataset, device, results)
        console.print(results.table(f"{model} on {dataset.title}, {epochs} epochs"))
        console.print(f"Curves, log.csv, results.json and checkpoints are in {out}", soft_wrap=True)


def train_all(settings: list[Settings], dataset: Dataset, device: torch.device, results: RunLog) -> None:
    """Run the remaining epochs of each of `settings`; keep `results` and its curves up to date."""
    title = f"{settings[0].model} on {dataset.title}"
    checkpoints = results.out / "checkpoints"
    runs = [Run(chosen, dataset, device, checkpoints / f"{run_name(chosen)}.pt") for chosen in settings]
    for run in runs:
        if run.resume():
            results.put(run.record())
    with progress_bar(console) as progress:
        for run in runs:
            name = f"{label(run.settings.bits):>5} seed {run.settings.seed}"
            done, total = len(run.history) * run.steps, run.settings.epochs * run.steps
            task = progress.add_task(name, total=total, completed=done, state="compiling")
            if run.finished:
                progress.update(task, state="done before")
                continue
            torch.compiler.reset()  # else the ninth run would meet Dynamo's recompile limit and fall back to eager
            run.prepare()
            progress.update(task, state="")

            def on_epoch(epoch: Epoch, run: Run = run, task: TaskID = task, name: str = name) -> None:
                results.put(run.record())
                report_epoch(console, progress, task, name, epoch)

            run.train(partial(progress.advance, task), on_epoch)
            plot(results.sorted(), results.out / "curves.png", title)
    plot(results.sorted(), results.out / "curves.png", title)


def run_name(settings: Settings) -> str:
    """The name of a run's files, such as `exact-seed0` or `4bit-seed0`."""
    bits = "exact" if settings.bits is None else f"{settings.bits}bit"
    return f"{bits}-seed{settings.seed}"


def parse_bits(text: str) -> list[int | None]:
    """Parse `exact,8,4` to [None, 8, 4], without repetitions.

    Raises:
        UserError: something other than exact and 2 to 8.
    """
    allowed = ("exact", *map(str, range(8, 1, -1)))
    names = [pick("number of bits", name.strip(), allowed) for name in text.split(",")]
    return [None if name == "exact" else int(name) for name in dict.fromkeys(names)]


def parse_seeds(text: str) -> list[int]:
    """Parse `0,1,2` to [0, 1, 2], without repetitions.

    Raises:
        UserError: something other than whole numbers of 0 or more.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(name.isdecimal() for name in names):
        raise UserError(f"The seeds are {text!r}; allowed are whole numbers from 0 up, with commas between: 0,1,2.")
    return list(dict.fromkeys(map(int, names)))


def clear(out: Path) -> None:
    """Remove the files that earlier runs wrote to `out`, and nothing else."""
    files = [out / name for name in ("log.csv", "results.json", "curves.png")]
    for path in [*files, *(out / "checkpoints").glob("*-seed*.pt*")]:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    app()
