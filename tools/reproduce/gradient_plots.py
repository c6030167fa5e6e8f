"""Plot the gradient's error: by bits and depth, by layer, by training time, and relative to SGD's noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tools.reproduce.comparison import save

COLOURS = {"1": "#000000", "2": "#009E73", "3": "#CC79A7", "4": "#D55E00", "6": "#999999", "8": "#0072B2"}
DEPTH_COLOURS = ("#56B4E9", "#0072B2", "#D55E00", "#000000")
Json = dict[str, Any]


def draw(depths: Json, middle: str, path: Path) -> None:
    """Draw the PNG `path`. depths: depth -> result of `gradient_error.one_depth`; middle: the depth in most panels."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 8.4), layout="constrained")
    middle = middle if middle in depths else next(iter(depths))
    _depths(axes[0, 0], depths)
    _layers(axes[0, 1], depths[middle]["errors"], middle)
    _time(axes[1, 0], depths[middle]["errors"], middle)
    if "noise" in depths[middle]:
        _noise(axes[1, 1], depths[middle]["noise"])
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
    save(figure, path)


def _depths(axis: Axes, depths: Json) -> None:
    for colour, (depth, result) in zip(DEPTH_COLOURS, depths.items(), strict=False):
        last = list(result["errors"].values())[-1]
        bits = list(map(int, last))
        axis.plot(bits, [row["all"] for row in last.values()], "o-", color=colour, label=f"depth {depth}")
        axis.plot(bits, [row["naive"] for row in last.values()], ":", color=colour)
    axis.set(
        xlabel="bits", ylabel="|error| / |gradient|", yscale="log", title="Whole gradient, trained (dotted: naive)"
    )
    axis.legend()


def _layers(axis: Axes, errors: Json, depth: str) -> None:
    last = list(errors.values())[-1]
    for bits, row in last.items():
        axis.plot(list(row["layers"].values()), color=COLOURS[bits], label=bits)
    axis.set(xlabel="convolution, from the input", ylabel="|error| / |gradient|", yscale="log")
    axis.set_title(f"Layer by layer, depth {depth}, trained")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylim(top=4)
    axis.legend(title="bits", fontsize=8, ncols=6, loc="upper center")


def _time(axis: Axes, errors: Json, depth: str) -> None:
    steps = list(map(int, errors))
    for bits in next(iter(errors.values())):
        axis.plot(steps, [row[bits]["all"] for row in errors.values()], "o-", color=COLOURS[bits], label=bits)
    axis.set(xlabel="training step", ylabel="|error| / |gradient|", yscale="log", title=f"Over training, depth {depth}")
    axis.set_xscale("symlog", linthresh=10)
    axis.set_xlim(-1, 2 * steps[-1])
    axis.set_ylim(top=3)
    axis.legend(title="bits", fontsize=8, ncols=6, loc="upper center")


def _noise(axis: Axes, noise: Json) -> None:
    names = [name for name in noise if name != "batches"]
    places = list(range(len(names)))
    smallest = min(row["variance"] for name, row in noise.items() if name != "batches") / 100
    for shift, key, colour in ((-0.2, "bias", "#D55E00"), (0.2, "variance", "#0072B2")):
        heights = [max(noise[name][key], smallest) for name in names]
        axis.bar([place + shift for place in places], heights, 0.38, color=colour, label=f"{key} of the approximation")
    axis.axhline(noise[names[0]]["sampling"], color="#000000", linestyle="--", label="sampling noise of a batch")
    axis.set_xticks(places, [name.replace(", ", "\n") for name in names], fontsize=7)
    axis.set(yscale="log", ylabel="over |mean gradient|²", title="Bias and variance against SGD's noise")
    axis.set_ylim(top=300)
    axis.legend(fontsize=8, loc="upper right", ncols=2)
