"""The choice of an encoding: the first kind in ENCODINGS that applies to the value."""

from __future__ import annotations

from typing import Any

from torch import fx

from ..joint.fake_values import nbytes, tensor
from .base import Encoding
from .bitmask import Bitmask
from .channel import Channel
from .context import Context
from .exact import Exact
from .exact_copy import ExactCopy
from .fixed_range import FixedRange
from .group import Group, Relu
from .index import Index
from .row_sigma import RowSigma
from .stochastic import Stochastic

# `for_value(value, context)` of each kind returns an encoding, or None if it does not apply. The last applies to any.
ENCODINGS: list[Any] = [ExactCopy, Exact, Bitmask, Index, Stochastic, Channel, RowSigma, Relu, FixedRange, Group]


def choose(value: fx.Node, context: Context) -> Encoding:
    """The encoding of a value; `Exact` if its codes would not be smaller than the value."""
    for kind in ENCODINGS:
        encoding: Encoding | None = kind.for_value(value, context)
        if encoding is not None:
            fake = tensor(value)
            is_no_smaller = fake is not None and encoding.nbytes(fake) >= nbytes(value)
            return Exact("small") if is_no_smaller and not encoding.why_exact() else encoding
    raise AssertionError("the last encoding is for any value")
