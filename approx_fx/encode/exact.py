"""Exact: the value is stored as it is, and the closed set of reasons why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.fake_values import numel
from .base import Build, Stored

# reason -> what it means; every tensor that the report lists as kept exact has one of these
REASONS = {
    "small": "smaller than min_bytes, or no smaller when coded",
    "statistic": "a mean, a deviation, a maximum: one number for many elements, which scales them all",
    "integer": "whole numbers or indices: an error in them is a wrong place, not a small error",
    "complex": "complex numbers have no quantizer",
    "sparse": "sparse or otherwise not strided",
    "not dense": "overlapping or with gaps in memory, its strides cannot be restored",
    "decision": "rounded, sign or sorted values: an error in them is a wrong decision",
    "filled": "masked places hold a number far from all others, and a code's step would have to reach it",
    "reader": "read by a backward op that is not known to tolerate approximation",
    "parameter": "computed from parameters alone: an error in a weight is the same for every sample",
    "checkpoint": "read by a region under torch.utils.checkpoint, which is recomputed from exact values",
    "asked": "its module is named in the option `exact`, or has no bits",
    "output": "returned by the model, so it is alive anyway",
    "dtype": "a floating point type of 8 bits or less is stored as it is",
}


@dataclass(frozen=True)
class Exact:
    """Store the value itself."""

    reason: str
    name: ClassVar[str] = "exact"

    def __post_init__(self) -> None:
        assert self.reason in REASONS, self.reason

    @property
    def bits(self) -> int:
        """Not coded."""
        return 0

    def nbytes(self, value: torch.Tensor) -> int:
        """The tensor's own bytes; an output costs nothing more."""
        return 0 if self.reason == "output" else numel(value) * value.element_size()

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value alone."""
        return [value]

    def quantize(self, build: Build, value: fx.Node) -> Stored:
        """The value itself."""
        return (value,)

    def dequantize(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The value itself."""
        return value
