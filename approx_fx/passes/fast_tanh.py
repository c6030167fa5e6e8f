"""On a CPU, replaces costly functions of decoded values in the backward by faster approximations."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from ..joint.fake_values import tensor
from ..joint.op_table import name_of
from ..ops import approximates, smooth
from .node_builder import Builder
from .state import Partition

# op name -> its approximation. One of erf takes twenty operations: a ViT's first compile x 1.5, for 0.4 % of its step.
APPROXIMATIONS = {"tanh": smooth.short_tanh}


@dataclass(frozen=True)
class FastTanh:
    """Pass: approximate tanh of values that depend on a decoded value. Functions of exact values are not changed."""

    def __call__(self, partition: Partition) -> Partition:
        """Replace the functions in the backward half."""
        use_fast_tanh(partition.backward)
        return partition


def use_fast_tanh(backward: fx.GraphModule) -> None:
    """Replace each `tanh` of a decoded value on a CPU by `short_tanh`, in place."""
    graph = backward.graph
    builder = Builder.on(graph, True)
    approximate: set[fx.Node] = set()  # nodes that depend on a decoded value, other than masks and indices
    for node in list(graph.nodes):
        value = tensor(node)
        inherits = approximates(node.target) or not approximate.isdisjoint(node.all_input_nodes)
        if node.op != "call_function" or not inherits or (value is not None and not value.is_floating_point()):
            continue
        approximation = APPROXIMATIONS.get(name_of(node))
        if approximation is not None and value is not None and value.device.type == "cpu":
            builder.origin = node
            with graph.inserting_before(node):
                fast = builder.call(approximation.overload, *node.args)
            node.replace_all_uses_with(fast)
            graph.erase_node(node)
            node = fast
        approximate.add(node)
    graph.lint()
    backward.recompile()
