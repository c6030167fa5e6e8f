"""A cache of training runs that experiments share: one JSON file a run; interrupted runs continue.

A run is OUT/GROUP/METHOD-seedN.json, with its settings, its environment and every epoch. Two experiments that use the
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


class RunCache:
    """The runs in the folder `out`; checkpoints of unfinished runs are in `out/unfinished`."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def path(self, group: str, name: str, seed: int) -> Path:
        """The path of one run's file."""
        return self.out / group / f"{name}-seed{seed}.json"

    def read(self, group: str, name: str, seeds: Sequence[int]) -> list[Json]:
        """The finished runs of a method, in the order of the seeds; missing ones are left out."""
        paths = [self.path(group, name, seed) for seed in seeds]
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]

    def train(self, group: str, names: Sequence[str], seeds: Sequence[int], dataset: Dataset, base: Settings) -> None:
        """Train every method and seed that has no finished run, seed by seed.

        Raises:
            UserError: a file holds a run with other settings.
        """
        device = dataset.train_x.device
        for seed in seeds:
            for name in names:
                chosen, model = method(name), model_of(name, base.model)
                settings = replace(
                    base, seed=seed, method=name, bits=chosen.bits, grid=chosen.grid or base.grid, model=model
                )
                self.run_once(
                    group,
                    name,
                    seed,
                    asdict(settings),
                    partial(_train, settings, dataset, device, self.out / "unfinished" / group),
                )

    def run_once(self, group: str, name: str, seed: int, settings: Json, run: Callable[[str], Json]) -> None:
        """Call `run` unless its result is cached; store the result with `settings`, date and environment."""
        path = self.path(group, name, seed)
        settings = json.loads(json.dumps(settings))
        if path.exists():
            changed = differences(json.loads(path.read_text(encoding="utf-8"))["settings"], settings)
            if changed:
                raise UserError(f"{path} holds a run with {changed}. Delete it, or give another --out.")
            return
        result = run(f"{group} {name} seed {seed}")
        content = {
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "environment": environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            "settings": settings,
            **result,
        }
        write_text(path, json.dumps(finite(content), indent=1, allow_nan=False) + "\n")


def _train(settings: Settings, dataset: Dataset, device: torch.device, folder: Path, title: str) -> Json:
    """Train a net on images, with its checkpoint in `folder` until it is done."""
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
    """The last epoch's value of `what`, a field of Epoch; NaN if training diverged."""
    value = run["history"][-1][what]
    return math.nan if value is None else float(value)


def seconds(runs: Sequence[Json]) -> float:
    """The seconds that the runs took for training and compiling."""
    return sum(final(run, "total_seconds") + run["compile_seconds"] for run in runs)
