"""torch._inductor.graph: what the forward saves is laid out as the trace has it, where another layout would be a copy.

Where Inductor lays convolutions out channels-last, it returns a channels-last copy of every weight and image that the
backward reads, and the copy is what autograd saves: as many bytes again as the weights have. Saving the input itself
also keeps autograd's check that nobody has changed it before the backward. And codes of a tensor that is channels-last
already are written in its memory order, as a tensor of batch, rows, columns and channels: channels-last in that shape
would be a transposition, as it would be of a matrix product's result in that shape. Outputs that a caller sees are
spared that; so these outputs are marked as such.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

from torch import fx

from ..joint.value_kinds import connected_to_convolution

_VISIBLE = "user_visible_output_idxs"


def keep_traced_layouts(graph: fx.Graph, ours: Collection[Any]) -> None:
    """Mark saved inputs, and codes of what is no image, among a forward's outputs, in place. ours: targets of our ops.

    A graph in which torch has marked nothing is left alone.
    """
    output = next(iter(graph.find_nodes(op="output")))
    if _VISIBLE not in output.meta:
        return
    images = connected_to_convolution(graph)
    results: Any = output.args[0]

    def keeps_layout(node: Any) -> bool:
        if not isinstance(node, fx.Node):
            return False
        if node.target is operator.getitem:
            node = node.all_input_nodes[0]
        return node.op == "placeholder" or (node.target in ours and images.isdisjoint(node.all_input_nodes))

    kept = [index for index, node in enumerate(results) if keeps_layout(node)]
    output.meta[_VISIBLE] = sorted({*output.meta[_VISIBLE], *kept})


def is_laid_out_as_traced(node: fx.Node) -> bool:
    """Whether Inductor, as it lowers the graph, takes the node to be an output with the strides of the trace."""
    from torch._inductor.virtualized import V

    return any(each in V.graph.user_visible_output_strides for each in (node, *node.users))
