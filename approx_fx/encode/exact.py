"""Exact encoding: the value is stored as it is, for one of a closed set of reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.fake_values import is_bool, is_float, is_whole, memory_order, nbytes, numel, tensor
from ..joint.op_table import traits
from .base import Build, Code, Stored
from .context import Context
from .index import Index

# reason -> what it means; every tensor that the report lists as kept exact has one of these
REASONS = {
    "small": "smaller than min_bytes, or no smaller when coded",
    "statistic": "a mean, a deviation, a maximum: one number for many elements, which scales them all",
    "integer": "whole numbers or indices: an error in them is a wrong place, not a small error",
    "complex": "complex numbers have no encoding",
    "sparse": "sparse or otherwise not strided",
    "not dense": "overlapping or with gaps in memory, its strides cannot be restored",
    "decision": "rounded, sign or sorted values: an error in them is a wrong decision",
    "filled": "masked places hold a number far from all others, and a code's step would have to reach it",
    "reader": "read by a backward op that is not known to tolerate approximation",
    "parameter": "computed from parameters alone: an error in a weight is the same for every sample",
    "checkpoint": "read by a region under torch.utils.checkpoint, which is recomputed from exact values",
    "gradient": "a gradient that the forward computes, with a loss in chunks",
    "user": "its module is named in the option `exact`, or has no bits",
    "overwritten": "the forward writes to its memory: the backward reads a copy",
    "measured": "its code was measured to be too far off",
    "dtype": "a floating point type of 8 bits or less is stored as it is",
}


@dataclass(frozen=True)
class Exact(Code):
    """Stores the value itself. reason: a key of REASONS."""

    reason: str
    name: ClassVar[str] = "exact"
    bits: ClassVar[int] = 0
    coded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        assert self.reason in REASONS, self.reason

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> Exact | None:
        """The encoding with the first reason for which the value must not or cannot be coded; None if there is none."""
        return next((cls(reason) for reason in _reasons(value, context)), None)

    def why_exact(self) -> str:
        """The key of the reason."""
        return self.reason

    def nbytes(self, value: torch.Tensor) -> int:
        """The tensor's own bytes."""
        return numel(value) * value.element_size()

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """Only the value."""
        return [value]

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """Saves the value itself."""
        return (value,)

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """Returns the value itself."""
        return value


def _reasons(value: fx.Node, context: Context) -> Iterator[str]:
    """The keys of all reasons why the value must be exact, the first to be reported first."""
    fake = tensor(value)
    if fake is None or fake.layout != torch.strided:
        yield "sparse"
        return
    if fake.is_complex():
        yield "complex"
    if value in context.reasons:
        yield context.reasons[value]
    if nbytes(value) < context.config.min_bytes:
        yield "small"
    if value in context.facts.statistics:
        yield "statistic"
    if is_whole(fake.dtype):
        if Index.for_value(value, context) is None:
            yield "integer"
        return
    if traits(value).decides:
        yield "decision"
    if not is_bool(value) and not is_float(value):
        yield "dtype"
    if value in context.facts.masked_fills:
        yield "filled"
    if memory_order(fake) is None:
        yield "not dense"
