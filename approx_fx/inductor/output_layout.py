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

import torch
from torch import fx

_VISIBLE = "user_visible_output_idxs"
aten = torch.ops.aten
TURNING = frozenset(
    [aten.permute.default, aten.transpose.int, aten.view.default, aten.reshape.default, aten.expand.default]
)
CONVOLUTIONS = (aten.convolution.default, aten.convolution_backward.default)


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


def connected_to_convolution(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that a path of 4-D values, without views or permutations on it, connects with a convolution."""
    images: set[fx.Node] = set()
    todo = [node for op in CONVOLUTIONS for node in graph.find_nodes(op="call_function", target=op)]
    while todo:
        node = todo.pop()
        if node not in images and node.target not in TURNING:
            images.add(node)
            near = (*node.all_input_nodes, *node.users)
            todo.extend(other for other in near if other.target in CONVOLUTIONS or _is_4d(other))
    return images


def is_laid_out_as_traced(node: fx.Node) -> bool:
    """Whether Inductor, as it lowers the graph, takes the node to be an output with the strides of the trace."""
    from torch._inductor.virtualized import V

    return any(each in V.graph.user_visible_output_strides for each in (node, *node.users))


def _is_4d(node: fx.Node) -> bool:
    value = node.meta.get("val")
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    return node.op != "output" and isinstance(value, torch.Tensor) and value.ndim == 4
