"""What passes hand on: a partition, from the plan to both halves; and what a pass is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import fx

from ..encode.base import Stored
from ..plan.plan import Plan
from ..torch_compat.aot_partitioner import Halves


@dataclass(frozen=True)
class Partition:
    """A joint graph on its way to two halves, our ops visible, with the plan behind it.

    stored: anchor -> the nodes that are saved for it. copies: a node that the backward reads -> the value that it
    stands for. halves: forward and backward, from the pass on that splits the joint graph.
    """

    plan: Plan
    stored: dict[fx.Node, Stored] = field(default_factory=dict)
    copies: dict[fx.Node, fx.Node] = field(default_factory=dict)
    halves: Halves | None = None

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
    """One step: a frozen dataclass whose fields are its options. Graphs are changed in place."""

    def __call__(self, partition: Partition) -> Partition:
        """The partition after the step. Raises PassFailed where the graph cannot be handled."""
