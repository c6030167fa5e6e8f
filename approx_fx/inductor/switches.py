"""Switches for each addition to Inductor, to measure it or to find a fault.

APPROX_FX_DISABLE=name,... names rows of `patches.PATCHES`, `post_grad.PASSES` and settings of `half.settings_for`.
"""

from __future__ import annotations

import os

VARIABLE = "APPROX_FX_DISABLE"


def disabled() -> frozenset[str]:
    """The names in APPROX_FX_DISABLE."""
    return frozenset(name.strip() for name in os.environ.get(VARIABLE, "").split(",")) - {""}


def is_on(name: str) -> bool:
    """Whether APPROX_FX_DISABLE does not list `name`."""
    return name not in disabled()
