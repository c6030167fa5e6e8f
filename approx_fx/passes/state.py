"""`Partition`, the state that passes get and return, and the interface of a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import fx

from ..encode.base import Stored
from ..plan.plan import Plan
from ..torch_compat.aot_partitioner import Halves


@dataclass(frozen=True)
class Partition:
    """A joint graph that is being split into two halves, with its plan.

    stored: anchor -> the nodes that are saved for it. copies: a decoded or recomputed node of the backward -> the value
    that it stands for. halves: forward and backward; None before `SplitHalves`. losses: for each large product,
    such as logits, whether it is computed in chunks.
    """

    plan: Plan
    stored: dict[fx.Node, Stored] = field(default_factory=dict)
    copies: dict[fx.Node, fx.Node] = field(default_factory=dict)
    halves: Halves | None = None
    losses: Sequence[str] = ()

    @property
    def forward(self) -> fx.GraphModule:
        """The forward half."""
        assert self.halves is not None, "the joint graph is not split yet"
        return self.halves[0]

    @property
    def backward(self) -> fx.GraphModule:
        """The backward half."""
        assert self.halves is not None, "the joint graph is not split yet"
        return self.halves[1]


class Pass(Protocol):
    """The interface of a pass: a frozen dataclass whose fields are its options. Graphs are changed in place."""

    def __call__(self, partition: Partition) -> Partition:
        """The partition after the pass. Raises PassFailed if the graph cannot be handled."""
