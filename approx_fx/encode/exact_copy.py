"""Exact copy encoding: a copy of a value in memory that is written to before the backward runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..joint.fake_values import numel, tensor
from .base import Build, Code, Stored, aten
from .context import Context


@dataclass(frozen=True)
class ExactCopy(Code):
    """Stores a copy of the value, of the same dtype and strides."""

    name: ClassVar[str] = "exact"
    bits: ClassVar[int] = 0

    @classmethod
    def for_value(cls, value: fx.Node, context: Context) -> ExactCopy | None:
        """The encoding of an input that the forward overwrites, and of a view of it; None for other values."""
        return cls() if value in context.facts.overwritten and tensor(value) is not None else None

    def why_exact(self) -> str:
        """The key of the reason."""
        return "overwritten"

    def nbytes(self, value: torch.Tensor) -> int:
        """The copy's bytes."""
        return numel(value) * value.element_size()

    def inputs(self, value: fx.Node) -> list[fx.Node]:
        """The value alone."""
        return [value]

    def encode(self, build: Build, value: fx.Node) -> Stored:
        """The copy; the writes to an input's memory are the last nodes of the forward."""
        return (build.call(aten.clone.default, value),)

    def decode(self, build: Build, stored: Stored, value: fx.Node) -> fx.Node:
        """The copy."""
        return stored[0]
