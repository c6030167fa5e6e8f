"""torch._inductor: only images are laid out channels-last.

Where Inductor lays convolutions out so, it wants all that they are computed from, or that follows, to lie so, too, in
its shape. A value of four dimensions behind a permutation or a view, as codes of a channels-last tensor in its memory
order, batch, rows, columns, channels, or a matrix product's result in that shape, would be transposed once more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx

aten = torch.ops.aten
TURNING = (aten.permute.default, aten.transpose.int, aten.view.default, aten.reshape.default, aten.expand.default)
CONVOLUTIONS = (aten.convolution.default, aten.convolution_backward.default)


def images(graph: fx.Graph) -> set[fx.Node]:
    """What is connected with a convolution by values of four dimensions, and by no view of them or permutation."""
    found: set[fx.Node] = set()
    todo = [node for op in CONVOLUTIONS for node in graph.find_nodes(op="call_function", target=op)]
    while todo:
        node = todo.pop()
        if node not in found and node.target not in TURNING:
            found.add(node)
            near = (*node.all_input_nodes, *node.users)
            todo.extend(other for other in near if other.target in CONVOLUTIONS or _is_square(other))
    return found


def _is_square(node: fx.Node) -> bool:
    value = node.meta.get("val")
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    return node.op != "output" and isinstance(value, Tensor) and value.ndim == 4


@contextlib.contextmanager
def permuted_as_it_is(half: fx.GraphModule, ours: Collection[Any]) -> Iterator[None]:
    """Inductor inside leaves the order of all else alone, if `half` calls one of `ours`. For one compile at a time.

    On a CPU, where convolutions take no other layout, that of codes alone.
    """
    from torch._inductor.graph import GraphLowering

    if not any(node.target in ours for node in half.graph.nodes):
        yield
        return
    find = GraphLowering.find_nodes_prefer_channels_last

    def found(self: Any) -> Any:
        nodes, graph = find(self), self.module.graph
        shown = images(graph)
        if not any(node.meta["val"].device.type == "cpu" for node in shown if isinstance(node.meta.get("val"), Tensor)):
            nodes.intersection_update(shown)
        for node in graph.find_nodes(op="call_function", target=aten.permute.default):
            nodes.difference_update(user for user in node.users if user.target in ours)
        return nodes

    with mock.patch.object(GraphLowering, "find_nodes_prefer_channels_last", found):
        yield
