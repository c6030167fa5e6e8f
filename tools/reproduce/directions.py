"""Train with approximate activations in the forward, in the backward, or in both, with the same bits."""

from __future__ import annotations

from tools.reproduce.comparison import Comparison

DIRECTIONS = Comparison(
    name="directions",
    title="Which direction is approximate",
    methods=("exact", "ours-4", "forward-4", "naive-4", "ours-2", "forward-2", "naive-2"),
)
