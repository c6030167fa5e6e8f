"""A joint graph under two partitions, torch's own and this pass's: what a report and its pictures are made of."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from ..passes.state import Partition
from ..torch_compat.aot_partitioner import Halves
from .data import GraphReport


@dataclass(frozen=True)
class TorchPartition:
    """A graph under torch's own partition. saved: value -> bytes; the rest is worked out on a dry run only.

    peak: predicted bytes; halves: forward and backward.
    """

    saved: dict[fx.Node, int]
    peak: int = 0
    halves: Halves | None = None

    @property
    def bytes(self) -> int:
        """Of all that is saved."""
        return sum(self.saved.values())


@dataclass(frozen=True)
class BothPartitions:
    """A graph under both partitions. ours: None where it stays exact."""

    report: GraphReport
    exact: TorchPartition
    ours: Partition | None
