"""Counts the floating point operations of a graph's products, convolutions and attentions."""

from __future__ import annotations

from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from ..joint.fake_values import hint
from ..joint.op_table import traits
from ..torch_compat.fake_tensors import evaluate, mode_of


def flops(graph: fx.Graph) -> int:
    """Floating point operations of the graph's compute-bound nodes, a varying size as it was traced.

    An op for which torch has no formula counts as 0.
    """
    mode, counter = mode_of(graph), FlopCounterMode(display=False)
    with counter:
        for node in graph.nodes:
            if node.op == "call_function" and traits(node).compute_bound:
                evaluate(mode, node.target, node.args, node.kwargs)  # type: ignore[arg-type]
    return hint(counter.get_total_flops())
