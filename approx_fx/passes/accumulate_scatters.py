"""Adds the gradient of an embedding into the other gradients of a tied weight, row by row.

The gradient of an embedding is scattered into zeros of the weight's size, and then added: two such tensors more than
needed are alive at the end of the backward, words times width each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from ..joint.fake_values import tensor
from ..joint.op_table import name_of
from .node_builder import Builder
from .state import Partition

# Ops that add rows into their first argument -> the position of a flag that they add, None if they always do.
SCATTERS = {"_unsafe_masked_index_put_accumulate": None, "index_put": 3, "_unsafe_index_put": 3}


@dataclass(frozen=True)
class AccumulateScatters:
    """Pass: where the backward adds a scatter into zeros to another value, scatter into that value."""

    def __call__(self, partition: Partition) -> Partition:
        """Replace the sums in the backward half; rounding differs, because terms are added in another order."""
        backward = partition.backward
        for total in list(backward.graph.nodes):
            if name_of(total) == "add" and len(total.args) == 2 and not total.kwargs:
                _scatter_into(backward.graph, total)
        backward.graph.eliminate_dead_code()
        backward.recompile()
        return partition


def _scatter_into(graph: fx.Graph, total: fx.Node) -> None:
    """Replace a sum of a value and a scatter into zeros, in place, if it is one."""
    for scatter, value in (total.args, total.args[::-1]):
        if not isinstance(scatter, fx.Node) or not isinstance(value, fx.Node) or not _is_into_zeros(scatter):
            continue
        if len(scatter.users) == 1 and _are_alike(scatter, value, total):
            build = Builder.on(graph, True)
            build.origin = scatter
            with graph.inserting_before(total):
                sums = build.call(scatter.target, value, *scatter.args[1:])  # type: ignore[arg-type]
            total.replace_all_uses_with(sums)
            graph.erase_node(total)
            return


def _are_alike(*nodes: fx.Node) -> bool:
    """Returns True if no value is broadcast or cast, and none has fewer bits than float32.

    Rows that are added one by one to a large value of 16 bits would be rounded away.
    """
    fakes = [tensor(node) for node in nodes]
    first = fakes[0]
    return (
        first is not None
        and first.dtype in (torch.float32, torch.float64)
        and all(fake is not None and fake.shape == first.shape and fake.dtype == first.dtype for fake in fakes)
    )


def _is_into_zeros(node: fx.Node) -> bool:
    """Returns True for a scatter that adds rows into zeros."""
    if name_of(node) not in SCATTERS or not isinstance(node.args[0], fx.Node):
        return False
    flag = SCATTERS[name_of(node)]
    zeros = node.args[0]
    adds = flag is None or (len(node.args) > flag and node.args[flag] is True)
    return adds and name_of(zeros) == "full" and bool(zeros.args[1] == 0)
