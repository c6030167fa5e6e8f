"""Plot a set of runs as a PNG: accuracy against epochs, loss against time, and saved bytes as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from tools.lib.settings import Record, label

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

COLOURS: dict[int | None, str] = {
    None: "#000000",
    8: "#0072B2",
    7: "#F0E442",
    6: "#999999",
    5: "#56B4E9",
    4: "#D55E00",
    3: "#CC79A7",
    2: "#009E73",
}
"""Okabe and Ito's colours, which colour-blind readers can tell apart."""

DASHES: dict[int | None, str] = {None: "-", 8: "--", 4: "-.", 2: ":"}


def plot(records: Sequence[Record], path: Path, title: str, saved: Mapping[int | None, int] | None = None) -> None:
    """Plot `records` to the PNG `path`: for each number of bits the mean over seeds and a band of one deviation.

    Args:
        records: the runs; those without an epoch are left out.
        path: the file to write.
        title: the title above the panels.
        saved: bytes saved for backward by bits; a third panel shows them as bars.
    """
    groups: dict[int | None, list[Record]] = {}
    for record in records:
        if record.history:
            groups.setdefault(record.bits, []).append(record)
    panels = 3 if saved else 2
    figure, axes = plt.subplots(1, panels, figsize=(5.2 * panels, 4.2), layout="constrained")
    for bits, runs in groups.items():
        _curves(axes[0], axes[1], bits, runs)
    axes[0].set(xlabel="epoch", ylabel="test accuracy (%)", title="Test accuracy")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1].set(xlabel="training time (s)", ylabel="training loss", title="Training loss", yscale="log")
    axes[1].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[1].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes[1].yaxis.set_minor_formatter(NullFormatter())
    axes[1].set_xlim(left=0)
    if groups:
        axes[0].legend(title="bits", loc="lower right")
    if saved:
        _bars(axes[2], saved)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _curves(accuracy: Axes, loss: Axes, bits: int | None, runs: Sequence[Record]) -> None:
    """Draw the mean and the band of `runs`, up to the last epoch that all of them have reached."""
    epochs = min(len(run.history) for run in runs)
    history = [run.history[:epochs] for run in runs]
    number = [epoch.epoch for epoch in history[0]]
    seconds = np.mean([[epoch.total_seconds for epoch in run] for run in history], axis=0)
    scores = np.array([[100 * epoch.test_accuracy for epoch in run] for run in history])
    losses = np.array([[epoch.train_loss for epoch in run] for run in history])
    for axis, x, values in ((accuracy, number, scores), (loss, seconds, losses)):
        mean = values.mean(axis=0)
        marker = "o" if epochs == 1 else ""
        dashes = DASHES.get(bits, "-")
        axis.plot(x, mean, label=label(bits), marker=marker, linewidth=1.8, color=COLOURS[bits], linestyle=dashes)
        if len(runs) > 1:
            sd = values.std(axis=0, ddof=1)
            low = np.maximum(mean - sd, values.min(axis=0)) if axis is loss else mean - sd
            high = mean + sd if axis is loss else np.minimum(mean + sd, 100)
            axis.fill_between(x, low, high, color=COLOURS[bits], alpha=0.18, linewidth=0)


def _bars(axis: Axes, saved: Mapping[int | None, int]) -> None:
    names = [label(bits) for bits in saved]
    sizes = [count / 1e6 for count in saved.values()]
    bars = axis.bar(names, sizes, color=[COLOURS[bits] for bits in saved])
    axis.bar_label(bars, labels=[f"{size:.2f}" for size in sizes], padding=2)
    axis.set(xlabel="bits", ylabel="saved for backward (MB)", title="Saved for backward, one step")
