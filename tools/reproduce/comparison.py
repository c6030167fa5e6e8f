"""Code shared by the training experiments: the main net and data, the table of methods, and the curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from tools.lib.datasets import Dataset, load, shrink
from tools.lib.settings import Settings
from tools.lib.training_curves import COLOURS
from tools.reproduce.methods import METHODS
from tools.reproduce.run_cache import Json, RunCache, final, seconds
from tools.reproduce.sizes import Size
from tools.reproduce.table_cells import paired, table, with_deviation, with_error

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

MAIN = "main"
"""The group of the main net's runs, which all experiments that compare methods on it share."""
DASHES = {"exact": "-", "ours": "-", "blpa": "--", "naive": ":", "forward": "-.", "banner": "--", "actnn": "--"}
HEADS = ("method", "test error %", "minus exact's, points", "training loss", "seconds a run", "each seed")


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main_data(size: Size) -> Dataset:
    """The main data set of a size, on the device."""
    return shrink(load(size.data), size.shrink).to(device())


def main_settings(size: Size) -> Settings:
    """The settings of the main net; each run replaces bits, seed and method."""
    data = size.data if size.shrink == 1 else f"{size.data} averaged over {size.shrink}x{size.shrink} pixels"
    return Settings(data, size.model, None, 0, size.epochs, size.batch, augment=size.augment, compiler=size.compiler)


def train_main(size: Size, out: Path, names: Sequence[str], close: Sequence[str] = ()) -> None:
    """Train the missing runs of the main net under these methods; those in `close` get more seeds."""
    dataset, settings = main_data(size), main_settings(size)
    RunCache(out).train(MAIN, names, size.seeds, dataset, settings)
    RunCache(out).train(MAIN, close, size.more_seeds, dataset, settings)


def read_main(size: Size, out: Path, names: Sequence[str]) -> dict[str, list[Json]]:
    """Method -> its finished runs; methods without one are left out."""
    runs_by_method = {name: RunCache(out).read(MAIN, name, (*size.seeds, *size.more_seeds)) for name in names}
    return {name: runs for name, runs in runs_by_method.items() if runs}


@dataclass(frozen=True)
class Comparison:
    """An experiment that trains the main net with several methods and plots their curves.

    name: of its command and its picture. drawn: the methods in the picture, all if empty. close: methods whose results
    lie within each other's noise and therefore get more seeds.
    """

    name: str
    title: str
    methods: tuple[str, ...]
    drawn: tuple[str, ...] = ()
    close: tuple[str, ...] = ()

    def measure(self, size: Size, out: Path) -> None:
        """Train the missing runs and plot the curves."""
        train_main(size, out, self.methods, self.close)
        draw_curves(read_main(size, out, self.drawn or self.methods), out / f"{self.name}.png", self.title)

    def page(self, size: Size, out: Path) -> str:
        """The Markdown table of the methods, with its footnote."""
        groups = read_main(size, out, self.methods)
        return f"{error_table(groups)}\n\n{foot(groups, f'python -m tools.reproduce {self.name}')}"


def error_of(run: Json) -> float:
    """The last test error in percent."""
    return 100 * (1 - final(run, "test_accuracy"))


def by_seed(runs: Sequence[Json], value: Callable[[Json], float]) -> dict[int, float]:
    """Seed -> value of its run."""
    return {run["settings"]["seed"]: value(run) for run in runs}


def error_table(groups: Mapping[str, Sequence[Json]], base: str = "exact") -> str:
    """A table with one line for each method: error, difference to `base` over shared seeds, loss, time."""
    rows = []
    exact = by_seed(groups.get(base, ()), error_of)
    for name, runs in groups.items():
        errors = by_seed(runs, error_of)
        rows.append((
            name, with_deviation(list(errors.values())), "" if name == base else with_error(paired(errors, exact)),
            with_deviation([final(run, "train_loss") for run in runs], 3), _time(name, runs),
            ", ".join(f"{error:.2f}" for error in errors.values()),
        ))  # fmt: skip
    return table(HEADS, rows)


def _time(name: str, runs: Sequence[Json]) -> str:
    kind = METHODS[name].runs
    if kind == "emulated":
        return "emulated"
    return f"{np.mean([final(run, 'total_seconds') for run in runs]):.0f}{', eager' if kind == 'eager' else ''}"


def foot(groups: Mapping[str, Sequence[Json]], command: str) -> str:
    """The footnote of a table: what was run, where, when, for how long, and by which command."""
    runs = [run for group in groups.values() for run in group]
    if not runs:
        return f"Not measured yet: `{command}`"
    where = runs[0]["environment"]

    def all_of(name: str) -> str:
        return ", ".join(dict.fromkeys(str(run["settings"][name]) for run in runs))

    dates = sorted(run["date"][:10] for run in runs)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return (
        f"{all_of('model')} on {all_of('data')}, {all_of('epochs')} epochs of batch {all_of('batch')}, "
        f"{all_of('optimizer')}, seeds {all_of('seed')}; {where['device']}, torch {where['torch']}, "
        f"approx_fx {where['approx_fx']}, {when}; {seconds(runs) / 60:.0f} minutes of training and compiling, the runs "
        f"that other tables share included; `{command}`"
    )


def draw_curves(groups: Mapping[str, Sequence[Json]], path: Path, title: str) -> None:
    """Plot test error and training loss against epochs (top) and seconds (bottom); mean and one deviation."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for name, runs in groups.items():
        epochs = min(len(run["history"]) for run in runs)
        history = [run["history"][:epochs] for run in runs]
        errors = np.array([[100 * (1 - epoch["test_accuracy"]) for epoch in run] for run in history])
        losses = np.array([[_number(epoch["train_loss"]) for epoch in run] for run in history])
        time = np.mean([[epoch["total_seconds"] for epoch in run] for run in history], axis=0)
        for column, values in enumerate((errors, losses)):
            _line(axes[0, column], np.arange(1, epochs + 1), values, name)
            if METHODS[name].runs != "emulated":
                _line(axes[1, column], time, values, name)
    for row, label in enumerate(("epoch", "training time (s), compiling not counted")):
        axes[row, 0].set(xlabel=label, ylabel="test error (%)")
        axes[row, 1].set(xlabel=label, ylabel="training loss")
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 1].legend(fontsize=8)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
    figure.suptitle(title)
    save(figure, path)


def _line(axis: Axes, x: Any, values: Any, name: str) -> None:
    colour, dash = COLOURS[METHODS[name].bits], DASHES.get(name.partition("-")[0], "-")
    mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else None
    kind = METHODS[name].runs
    label = name if kind == "compiled" else f"{name}, {kind}"
    axis.plot(x, mean, dash, color=colour, label=label, linewidth=1.6, marker="o" if len(x) == 1 else "")
    if spread is not None:
        axis.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.12, linewidth=0)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def save(figure: Any, path: Path) -> None:
    """Write a figure as a PNG and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
