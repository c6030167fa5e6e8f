"""Splits the joint graph into a forward and a backward half; saved tensors are exactly those of the plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..joint.fake_values import is_size
from ..torch_compat import aot_partitioner as aot
from .state import Partition


@dataclass(frozen=True)
class SplitHalves:
    """Pass: split the joint graph by torch's own extraction, given the saved nodes, so that no second cut is made."""

    def __call__(self, partition: Partition) -> Partition:
        """Split the joint graph; dead code is dropped."""
        joint = partition.plan.joint
        graph = joint.module.graph
        saved = list(dict.fromkeys(node for nodes in partition.stored.values() for node in nodes))
        alive = joint.inputs - joint.activations
        inputs = [node for node in graph.find_nodes(op="placeholder") if node in alive and not is_size(node)]
        sizes = [node for node in joint.order if is_size(node) and node not in joint.backward]
        halves = aot.split_joint_graph(joint.module, inputs + saved, sizes, joint.num_fwd_outputs)
        return replace(partition, halves=halves)
