"""One joint graph under torch's own partition and under this pass's: the input of the report and its pictures."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from ..passes.state import Partition
from ..torch_compat.aot_partitioner import Halves
from .data import GraphReport


@dataclass(frozen=True)
class TorchPartition:
    """A graph under torch's own partition. saved: saved value -> bytes.

    peak, halves: the predicted peak in bytes and (forward, backward), on a dry run only; else 0 and None.
    """

    saved: dict[fx.Node, int]
    peak: int = 0
    halves: Halves | None = None

    @property
    def bytes(self) -> int:
        """Bytes of all saved values."""
        return sum(self.saved.values())


@dataclass(frozen=True)
class BothPartitions:
    """A graph under both partitions. coded: this pass's partition, None where the graph stays exact."""

    report: GraphReport
    by_torch: TorchPartition
    coded: Partition | None
