"""Which direction matters: approximate activations in the forward, in the backward, or in both, with the same bits."""

from __future__ import annotations

from pathlib import Path

from tools.reproduce.comparison import draw_curves, error_table, foot, read_main, train_main
from tools.reproduce.sizes import Size

NAMES = ("exact", "ours-4", "forward-4", "naive-4", "ours-2", "forward-2", "naive-2")


def measure(size: Size, out: Path) -> None:
    """Train what is missing, and draw the curves."""
    train_main(size, out, NAMES)
    draw_curves(read_main(size, out, NAMES), out / "directions.png", "Which direction is approximate")


def page(size: Size, out: Path) -> str:
    """The table."""
    found = read_main(size, out, NAMES)
    return f"{error_table(found)}\n\n{foot(found, 'python -m tools.reproduce directions')}"
