"""Banner et al. 2018 beside approx_fx, trained under the same settings; its time and memory are on the savers' page."""

from __future__ import annotations

from tools.reproduce.comparison import Comparison

BANNER = Comparison(
    name="banner",
    title="Range BN and 8 bits everywhere",
    methods=("exact", "ours-8", "ours-4", "banner-8"),
)
