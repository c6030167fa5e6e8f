"""What is added to Inductor can be switched off, part by part, to measure it and to find a fault.

APPROX_FX_DISABLE=name,... in the environment names rows of `patches.PATCHES`, of `post_grad.PASSES`, and what
`half.settings_for` sets beside these. Results are the same without any of them, only slower or larger.
"""

from __future__ import annotations

import os

VARIABLE = "APPROX_FX_DISABLE"


def disabled() -> frozenset[str]:
    """The names in the environment."""
    return frozenset(name.strip() for name in os.environ.get(VARIABLE, "").split(",")) - {""}


def is_on(name: str) -> bool:
    """Whether the environment does not name it."""
    return name not in disabled()
