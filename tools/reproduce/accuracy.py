"""Table 1 and Figure 3: the same net trained exactly, in 8, 4 and 2 bits, naively, and on the paper's own grid."""

from __future__ import annotations

from pathlib import Path

from tools.reproduce.comparison import draw_curves, error_table, foot, read_main, train_main
from tools.reproduce.sizes import Size

NAMES = (
    "exact", "ours-8", "ours-4", "ours-2", "blpa-8", "blpa-4", "blpa-2", "naive-4", "naive-2",
)  # fmt: skip
CLOSE = ("exact", "ours-8", "ours-4", "blpa-8", "blpa-4")
DRAWN = ("exact", "ours-8", "ours-4", "ours-2", "blpa-2", "naive-4", "naive-2")


def measure(size: Size, out: Path) -> None:
    """Train what is missing, and draw the curves."""
    train_main(size, out, NAMES, CLOSE)
    draw_curves(read_main(size, out, DRAWN), out / "accuracy.png", "Exact, approximate and naive training")


def page(size: Size, out: Path) -> str:
    """The table."""
    found = read_main(size, out, NAMES)
    return f"{error_table(found)}\n\n{foot(found, 'python -m tools.reproduce accuracy')}"
