"""Policies that change the widths which the options ask for, before the cut is made: by default there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import fx

from ..encode.base import Encoding
from ..encode.context import Context

# Candidates with their encodings, and what is known of the graph -> the same candidates with the encodings to price.
WidthPolicy = Callable[[Mapping[fx.Node, Encoding], Context], Mapping[fx.Node, Encoding]]
# Applied in their order.
POLICIES: list[WidthPolicy] = []


def with_policies(encodings: Mapping[fx.Node, Encoding], context: Context) -> dict[fx.Node, Encoding]:
    """The encodings as all policies leave them."""
    for policy in POLICIES:
        encodings = policy(encodings, context)
    return dict(encodings)
