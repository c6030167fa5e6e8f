"""Policies that change the code widths given by the options, before the cut is made. By default there are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import fx

from ..encode.base import Encoding
from ..encode.context import Context

# (value -> encoding, context) -> the same values with the encodings to price
WidthPolicy = Callable[[Mapping[fx.Node, Encoding], Context], Mapping[fx.Node, Encoding]]
# Applied in this order.
POLICIES: list[WidthPolicy] = []


def with_policies(encodings: Mapping[fx.Node, Encoding], context: Context) -> dict[fx.Node, Encoding]:
    """The encodings after all policies have been applied."""
    for policy in POLICIES:
        encodings = policy(encodings, context)
    return dict(encodings)
