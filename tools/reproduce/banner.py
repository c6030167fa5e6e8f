"""Banner et al. 2018 and approx_fx trained with the same settings; memory_savers.py measures its time and memory."""

from __future__ import annotations

from tools.reproduce.comparison import Comparison

BANNER = Comparison(
    name="banner",
    title="Range BN and 8 bits everywhere",
    methods=("exact", "ours-8", "ours-4", "banner-8"),
)
