"""Splits a convolution's backward: first the weight's gradient, so that the decoded input is freed before the other.

`aten.convolution_backward` computes both, and holds a decoded input while its gradient is computed, which does not read
it. The input's gradient alone is the transposed convolution of the output's gradient. Every backend computes the two
gradients by separate kernels, the same as here, so the split changes neither time nor results. The layout of the
input's gradient then follows from its own operands; if it would differ from the input's, views of it would fail, and
the convolution is not split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..joint.fake_values import tensor
from ..joint.op_table import name_of
from .node_builder import Builder
from .state import Partition

aten = torch.ops.aten


@dataclass(frozen=True)
class SplitConvBackward:
    """Pass: where a convolution's input is decoded or recomputed, compute the weight's gradient before the input's."""

    def __call__(self, partition: Partition) -> Partition:
        """Rewrite the backward half, if anything is decoded in it."""
        if partition.stored:
            split_conv_backward(partition.backward)
        return partition


def split_conv_backward(backward: fx.GraphModule) -> None:
    """Split the backwards of convolutions, in place.

    Not of grouped ones, nor where a size is symbolic, the input is saved as it is, or the gradient's strides change.
    """
    graph = backward.graph
    builder = Builder.on(graph, True)
    for node in list(graph.nodes):
        if name_of(node) != "convolution_backward":
            continue
        grad, data, weight, _, stride, padding, dilation, transposed, _, groups, output_mask = _arguments(node)
        output_padding = _output_padding(node)
        if not (output_mask[0] and output_mask[1]) or groups != 1 or output_padding is None or data.op == "placeholder":
            continue
        builder.origin = node
        with graph.inserting_before(node):
            shape = (stride, padding, dilation, not transposed, output_padding, groups)
            grad_input = builder.call(aten.convolution.default, grad, weight, None, *shape)
            if grad_input.meta["val"].stride() != node.meta["val"][0].stride():
                graph.erase_node(grad_input)
                continue
            grad_weight = builder.call(node.target, *node.args[:-1], [False, *output_mask[1:]])
            grad_input.prepend(grad_weight)
        for user in list(node.users):
            if user.args[1] == 0:
                user.replace_all_uses_with(grad_input)
                graph.erase_node(user)
            else:
                user.replace_input_with(node, grad_weight)
        graph.erase_node(node)
    graph.lint()
    backward.recompile()


def _output_padding(node: fx.Node) -> list[int] | None:
    """The `output_padding` by which the transposed convolution has the input's size; None if there is no valid one."""
    values = [tensor(item) for item in _arguments(node)[:3]]
    grad, data, weight = (tuple(value.shape)[2:] if value is not None else () for value in values)
    if not all(isinstance(size, int) for size in (*grad, *data, *weight)):
        return None
    stride, padding, dilation, transposed = _arguments(node)[4:8]
    if transposed:
        return [0] * len(grad)
    dims = zip(grad, data, weight, stride, padding, dilation, strict=True)
    output_padding = [
        size - ((out - 1) * step - 2 * pad + spread * (kernel - 1) + 1) for out, size, kernel, step, pad, spread in dims
    ]
    is_valid = all(
        0 <= extra < max(step, spread) for extra, step, spread in zip(output_padding, stride, dilation, strict=True)
    )
    return output_padding if is_valid else None


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    return node.args
