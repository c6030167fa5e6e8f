"""Training runs that experiments share: one JSON file a run, made once, continued where it was stopped.

A run is OUT/GROUP/METHOD-seedN.json: its settings, its environment, and every epoch. Two experiments that ask for the
same method in the same group read the same file.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tools.lib.checkpoint import write_text
from tools.lib.cli_common import progress_bar, report_epoch
from tools.lib.datasets import Dataset
from tools.lib.run_log import environment, finite
from tools.lib.settings import Epoch, Settings, differences
from tools.lib.training import Run
from tools.lib.user_errors import UserError
from tools.reproduce.methods import convert, method, model_of

Json = dict[str, Any]
console = Console()


class Pool:
    """The runs under `out`; the checkpoints of unfinished ones are in its folder `unfinished`."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def path(self, group: str, name: str, seed: int) -> Path:
        """The file of one run."""
        return self.out / group / f"{name}-seed{seed}.json"

    def read(self, group: str, name: str, seeds: Sequence[int]) -> list[Json]:
        """The finished runs of a method, in the order of the seeds; those that are missing are left out."""
        paths = [self.path(group, name, seed) for seed in seeds]
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]

    def train(self, group: str, names: Sequence[str], seeds: Sequence[int], dataset: Dataset, base: Settings) -> None:
        """Run what is missing of every method and seed, seed by seed.

        Raises:
            UserError: a file holds a run of other settings.
        """
        device = dataset.train_x.device
        for seed in seeds:
            for name in names:
                chosen, model = method(name), model_of(name, base.model)
                settings = replace(
                    base, seed=seed, method=name, bits=chosen.bits, grid=chosen.grid or base.grid, model=model
                )
                self.once(
                    group,
                    name,
                    seed,
                    asdict(settings),
                    partial(_train, settings, dataset, device, self.out / "unfinished" / group),
                )

    def once(self, group: str, name: str, seed: int, settings: Json, run: Callable[[str], Json]) -> None:
        """Call `run` unless its result is there; keep the result with `settings`, date and environment."""
        path = self.path(group, name, seed)
        settings = json.loads(json.dumps(settings))
        if path.exists():
            other = differences(json.loads(path.read_text(encoding="utf-8"))["settings"], settings)
            if other:
                raise UserError(f"{path} holds a run with {other}. Delete it, or give another --out.")
            return
        found = run(f"{group} {name} seed {seed}")
        content = {
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "environment": environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            "settings": settings,
            **found,
        }
        write_text(path, json.dumps(finite(content), indent=1, allow_nan=False) + "\n")


def _train(settings: Settings, dataset: Dataset, device: torch.device, folder: Path, title: str) -> Json:
    """One run of a net on images, with its checkpoint in `folder` until it is done."""
    torch.compiler.reset()  # else the ninth run would meet Dynamo's recompile limit and fall back to eager
    checkpoint = folder / f"{settings.method}-seed{settings.seed}.pt"
    run = Run(settings, dataset, device, checkpoint, convert, reports=bool(method(settings.method).grid))
    run.resume()
    run.prepare()
    with progress_bar(console) as progress:
        done, total = len(run.history) * run.steps, settings.epochs * run.steps
        task = progress.add_task(title, total=total, completed=done, state="")

        def on_epoch(epoch: Epoch) -> None:
            report_epoch(console, progress, task, title, epoch)

        run.train(partial(progress.advance, task), on_epoch)
    checkpoint.unlink(missing_ok=True)
    record = asdict(run.record())
    return {name: record[name] for name in ("compile_seconds", "saved_before", "saved_after", "history")}


def final(run: Json, what: str) -> float:
    """The last epoch's value of `what`, a field of Epoch; NaN where training diverged."""
    value = run["history"][-1][what]
    return math.nan if value is None else float(value)


def seconds(runs: Sequence[Json]) -> float:
    """What the runs took, training and compiling."""
    return sum(final(run, "total_seconds") + run["compile_seconds"] for run in runs)
