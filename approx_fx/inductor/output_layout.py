"""Post-grad pass: saved inputs and codes keep their traced strides where another layout would cost a copy.

Where Inductor makes convolutions channels-last, it returns a channels-last copy of every weight and image that the
backward reads, and autograd saves the copy: as many bytes as the weights have. Codes of a channels-last tensor are
traced with the shape [batch, rows, columns, channels]; channels-last strides for that shape would transpose them, and
likewise a matrix product's result of four dimensions. Outputs marked as visible to the user keep their strides.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

from torch import fx

from ..joint.value_kinds import connected_to_convolution

_VISIBLE_OUTPUTS = "user_visible_output_idxs"


def keep_traced_layouts(graph: fx.Graph, our_ops: Collection[Any]) -> None:
    """Mark saved inputs, and codes of non-images, among a forward's outputs, in place. our_ops: targets of our ops.

    A graph without torch's own list of visible outputs is not changed.
    """
    output = next(iter(graph.find_nodes(op="output")))
    if _VISIBLE_OUTPUTS not in output.meta:
        return
    images = connected_to_convolution(graph)
    outputs: Any = output.args[0]

    def keeps_layout(node: Any) -> bool:
        if not isinstance(node, fx.Node):
            return False
        if node.target is operator.getitem:
            node = node.all_input_nodes[0]
        return node.op == "placeholder" or (node.target in our_ops and images.isdisjoint(node.all_input_nodes))

    kept = [index for index, node in enumerate(outputs) if keeps_layout(node)]
    output.meta[_VISIBLE_OUTPUTS] = sorted({*output.meta[_VISIBLE_OUTPUTS], *kept})


def is_laid_out_as_traced(node: fx.Node) -> bool:
    """Whether the node, or its getitem, is an output whose traced strides Inductor keeps. Call it during lowering."""
    from torch._inductor.virtualized import V

    return any(output in V.graph.user_visible_output_strides for output in (node, *node.users))
