"""Draw the README's picture: what one conv-BN-ReLU-conv chain saves, and the saved bytes of whole networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEFORE, AFTER = "#D55E00", "#0072B2"
STAGES = ("conv", "batch norm", "ReLU", "conv")


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the PNG `path`. rows: of docs/results/explain.json; those of 4 bits and float32 are drawn."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.6), width_ratios=(1.25, 1), layout="constrained")
    _chain(left, 2.6, "torch.compile keeps two full maps", [(0.5, "32 bit"), (2.5, "32 bit")], BEFORE, 0.5)
    _chain(left, 0.6, "approx_fx keeps one code for all three readers", [(0.5, "4 bit")], AFTER, 0.0625)
    left.set(xlim=(-0.6, 3.6), ylim=(-0.55, 3.6))
    left.axis("off")
    _bars(right, [row for row in rows if "--bits 4" in row["command"] and "float32" in row["command"]])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _chain(axes: Any, y: float, title: str, saved: list[tuple[float, str]], colour: str, height: float) -> None:
    axes.text(-0.45, y + 0.62, title, fontsize=12, weight="bold", color=colour)
    for x, stage in enumerate(STAGES):
        box = {"boxstyle": "round,pad=0.45", "facecolor": "#F2F2F2", "edgecolor": "#555555"}
        axes.text(x, y + 0.2, stage, ha="center", va="center", fontsize=11, bbox=box)
        if x:
            axes.annotate(
                "", (x - 0.36, y + 0.2), (x - 0.64, y + 0.2), arrowprops={"arrowstyle": "->", "color": "#555555"}
            )
    for position, label in saved:
        axes.bar(position, height, 0.22, bottom=y - 0.12 - height, color=colour)
        axes.annotate("", (position, y - 0.12), (position, y + 0.17), arrowprops={"arrowstyle": "->", "color": colour})
        axes.text(position + 0.16, y - 0.2, f"{label} an element, saved", fontsize=10, va="top", color=colour)


def _bars(axes: Any, rows: list[dict[str, Any]]) -> None:
    names = [row["command"].split(":")[1].split(" ")[0] for row in rows]
    places = range(len(rows))
    before = [row["saved_bytes"]["before"] / 2**20 for row in rows]
    after = [row["saved_bytes"]["after"] / 2**20 for row in rows]
    axes.barh([place - 0.2 for place in places], before, 0.38, color=BEFORE, label="torch.compile")
    axes.barh([place + 0.2 for place in places], after, 0.38, color=AFTER, label="approx_fx, 4 bits")
    for place, row in zip(places, rows, strict=True):
        axes.text(after[place] + 8, place + 0.2, f"{row['ratio']:.1f}x smaller", va="center", fontsize=8.5, color=AFTER)
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
    axes.set_xlabel("MiB saved for backward")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
