"""Banner et al. 2018 beside approx_fx, trained under the same settings; its time and memory are on the savers' page."""

from __future__ import annotations

from pathlib import Path

from tools.reproduce.comparison import draw_curves, error_table, foot, read_main, train_main
from tools.reproduce.sizes import Size

NAMES = ("exact", "ours-8", "ours-4", "banner-8")


def measure(size: Size, out: Path) -> None:
    """Train what is missing, and draw the curves."""
    train_main(size, out, NAMES)
    draw_curves(read_main(size, out, NAMES), out / "banner.png", "Range BN and 8 bits everywhere")


def page(size: Size, out: Path) -> str:
    """The table."""
    found = read_main(size, out, NAMES)
    return f"{error_table(found)}\n\n{foot(found, 'python -m tools.reproduce banner')}"
