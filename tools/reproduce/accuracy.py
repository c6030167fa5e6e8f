"""Table 1 and Figure 3: the same net trained exactly, with 8, 4 and 2 bits, naively, and on the paper's grid."""

from __future__ import annotations

from tools.reproduce.comparison import Comparison

ACCURACY = Comparison(
    name="accuracy",
    title="Exact, approximate and naive training",
    methods=("exact", "ours-8", "ours-4", "ours-2", "blpa-8", "blpa-4", "blpa-2", "naive-4", "naive-2"),
    drawn=("exact", "ours-8", "ours-4", "ours-2", "blpa-2", "naive-4", "naive-2"),
    close=("exact", "ours-8", "ours-4", "blpa-8", "blpa-4"),
)
