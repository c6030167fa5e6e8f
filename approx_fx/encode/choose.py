"""The choice of an encoding: the first in the list that says it is for the value."""

from __future__ import annotations

from typing import Any

from torch import fx

from ..joint.fake_values import nbytes, tensor
from .base import Encoding
from .bitmask import Bitmask
from .channel import Channel
from .context import Context
from .exact import Exact
from .fixed_range import FixedRange
from .group import Group, Relu
from .index import Index
from .row_sigma import RowSigma
from .stochastic import Stochastic

# Each has `for_value(value, context)`: the encoding, or None where it is not for the value. The last is for any.
ENCODINGS: list[Any] = [Exact, Bitmask, Index, Stochastic, Channel, RowSigma, Relu, FixedRange, Group]


def choose(value: fx.Node, context: Context) -> Encoding:
    """The encoding of a value, exact if a code would not make it smaller."""
    for kind in ENCODINGS:
        encoding: Encoding | None = kind.for_value(value, context)
        if encoding is not None:
            own = tensor(value)
            larger = own is not None and encoding.coded and encoding.nbytes(own) >= nbytes(value)
            return Exact("small") if larger else encoding
    raise AssertionError("the last encoding is for any value")
