"""Splits a joint graph by a plan, with its loss in chunks where that lowers the predicted peak of the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import fx

from ..chunk.region import products
from ..config import Config
from ..joint.fake_values import varies
from ..passes.state import Partition
from ..torch_compat.lazy_graph_module import copy_graph_module
from .predicted_peak import predicted_peak

# A loss is computed in chunks if that lowers the predicted peak by at least this share.
LEAST_LOWERED = 0.05


def partition_for_peak(
    module: fx.GraphModule, config: Config, split: Callable[[fx.GraphModule, Config], Partition]
) -> tuple[Partition, int]:
    """Partition a simplified joint graph, and predict the bytes at its peak.

    split: partitions a graph by a config, in place. A graph with a product that may be computed in chunks is split in
    both ways; the module is one of the two then. If sizes vary it is split with chunks alone: it may have been traced
    for a batch that is smaller than the usual.
    Raises PassFailed if the graph cannot be handled.
    """

    def with_peak(partitioned: Partition) -> tuple[Partition, int]:
        names = {node.name for node in partitioned.plan.joint.activations}
        return partitioned, predicted_peak(partitioned.forward, partitioned.backward, names)

    untouched = copy_graph_module(module) if config.chunk_loss is True and _is_of_one_size(module.graph) else None
    partitioned, peak = with_peak(split(module, config))
    if untouched is None or not any(": in " in text for text in partitioned.losses):
        return partitioned, peak
    whole, peak_of_whole = with_peak(split(untouched, dataclasses.replace(config, chunk_loss=False)))
    lowered = 1 - peak / max(peak_of_whole, 1)
    if lowered >= LEAST_LOWERED:
        return partitioned, peak
    reason = f"not in chunks: they would lower the step's predicted peak by {max(lowered, 0):.0%}, less than 5%"
    texts = [f"{text.partition(': in ')[0]}: {reason}" if ": in " in text else text for text in partitioned.losses]
    return dataclasses.replace(whole, losses=texts), peak_of_whole


def _is_of_one_size(graph: fx.Graph) -> bool:
    """Return True if there are products that may be computed in chunks, and none has a size that varies."""
    fakes = [product.meta["val"] for product in products(graph)]
    return bool(fakes) and not any(map(varies, fakes))
