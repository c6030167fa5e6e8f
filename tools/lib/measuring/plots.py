"""Plot results as PNG: time against memory, throughput against batch, peak against depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from approx_fx.bench.baselines import is_approx_fx
from tools.lib.measuring.calculations import dominated, pareto

COLOURS = {
    "compile": "#000000", "eager": "#999999", "budget": "#E69F00", "checkpoint": "#56B4E9",
    "checkpoint-eager": "#0072B2", "fp8": "#CC79A7", "approx_fx": "#D55E00", "approx_fx@8": "#882255",
    "approx_fx@4": "#D55E00", "approx_fx@2": "#009E73", "chunked": "#E69F00", "approx_fx+checkpoint": "#009E73",
}  # fmt: skip
"""Okabe and Ito's colours, which colour-blind readers can tell apart; wine replaces their yellow, too pale on white."""

Series = Mapping[str, list[tuple[float, float]]]


def draw_pareto(entries: Mapping[str, Mapping[str, Any]], path: Path) -> bool:
    """Plot time and peak relative to torch.compile, one panel an entry; dominated systems are hollow.

    Returns False, and writes nothing, if there is nothing to draw.
    """
    points_by_entry = {name: pareto(entry["runs"]) for name, entry in entries.items() if "runs" in entry}
    points_by_entry = {name: points for name, points in points_by_entry.items() if points}
    if not points_by_entry:
        return False
    columns = min(len(points_by_entry), 3)
    rows = -(-len(points_by_entry) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.8 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(points_by_entry) :]:
        axis.set_visible(False)
    keys: dict[str, Line2D] = {}
    for axis, (name, points) in zip(axes.flat, points_by_entry.items(), strict=False):
        worse = dominated(points)
        for point in points:
            colour = COLOURS.get(point.system, "#333333")
            fill = "none" if point.system in worse else colour
            marker = "o" if is_approx_fx(point.system) else "s"
            axis.scatter(point.memory, point.time, s=55, marker=marker, facecolors=fill, edgecolors=colour, zorder=3)
            if point.system not in COLOURS:  # widths that share a colour
                axis.annotate(point.system, (point.memory, point.time), (5, 4), textcoords="offset points", fontsize=8)
            keys.setdefault(point.system, Line2D([], [], color=colour, marker=marker, linestyle=""))
        _finish(axis, "peak, torch.compile = 1", "step time, torch.compile = 1", name)
        axis.set_xlim(0, 1.15 * max(point.memory for point in points))
        axis.set_ylim(0, 1.15 * max(point.time for point in points))
    figure.legend(
        keys.values(),
        keys,
        loc="outside lower center",
        ncols=min(len(keys), 3 * columns),
        title="hollow: another one is better in both",
        frameon=False,
    )
    _save(figure, path)
    return True


def draw_lines(series: Series, path: Path, labels: tuple[str, str, str]) -> None:
    """Plot a line for each system through its (x, y). labels: x label, y label, title."""
    draw_panels([(series, labels)], path)


def draw_panels(panels: Sequence[tuple[Series, tuple[str, str, str]]], path: Path) -> None:
    """Plot panels side by side, each with a line for each system as in `draw_lines`; the first has the legend."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), 4.2), layout="constrained", squeeze=False)
    for axis, (series, labels) in zip(axes.flat, panels, strict=True):
        for name, points in series.items():
            xs, ys = zip(*sorted(points), strict=True)
            axis.plot(xs, ys, marker="o", linewidth=1.8, label=name, color=COLOURS.get(name))
        _finish(axis, *labels)
        axis.set_ylim(bottom=0)
    if panels[0][0]:
        axes.flat[0].legend()
    _save(figure, path)


def _finish(axis: Axes, x: str, y: str, title: str) -> None:
    axis.set(xlabel=x, ylabel=y, title=title)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
