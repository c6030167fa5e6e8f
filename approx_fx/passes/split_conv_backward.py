"""A convolution's gradients one after the other: the weight's first, so that its input is free when the other is made.

`aten.convolution_backward` gives both at once: a decoded input is held, for nothing, while its gradient is computed.
The input's gradient alone is the transposed convolution of the output's gradient, which needs only the input's size;
every backend computes the two by kernels of their own, these very ones, so parting them costs no time and no bit. Its
layout follows from its own operands, not from the input's: where the two would differ, views behind it would fail.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..joint.fake_values import tensor
from ..joint.ops import name_of
from .node_builder import Builder

aten = torch.ops.aten


def split_conv_backward(backward: fx.GraphModule) -> None:
    """Where a convolution's input is decoded or computed again, find the weight's gradient first, then the input's.

    In place. Not for grouped convolutions, nor where a size is a symbol or the gradient would have other strides.
    """
    graph = backward.graph
    builder = Builder.on(graph, True)
    for node in list(graph.nodes):
        if name_of(node) != "convolution_backward":
            continue
        grad, data, weight, _, stride, padding, dilation, transposed, _, groups, wanted = _arguments(node)
        room = _output_padding(node)
        if not (wanted[0] and wanted[1]) or groups != 1 or room is None or data.op == "placeholder":
            continue
        builder.origin = node
        with graph.inserting_before(node):
            shape = (stride, padding, dilation, not transposed, room, groups)
            mine = builder.call(aten.convolution.default, grad, weight, None, *shape)
            if mine.meta["val"].stride() != node.meta["val"][0].stride():
                graph.erase_node(mine)
                continue
            rest = builder.call(node.target, *node.args[:-1], [False, *wanted[1:]])
            mine.prepend(rest)
        for user in list(node.users):
            if user.args[1] == 0:
                user.replace_all_uses_with(mine)
                graph.erase_node(user)
            else:
                user.replace_input_with(node, rest)
        graph.erase_node(node)
    graph.lint()
    backward.recompile()


def _output_padding(node: fx.Node) -> list[int] | None:
    """What the transposed convolution adds at the end to give the input's size; None if that is no number it allows."""
    values = [tensor(item) for item in _arguments(node)[:3]]
    grad, data, weight = (tuple(value.shape)[2:] if value is not None else () for value in values)
    if not all(isinstance(size, int) for size in (*grad, *data, *weight)):
        return None
    stride, padding, dilation, transposed = _arguments(node)[4:8]
    if transposed:
        return [0] * len(grad)
    steps = zip(grad, data, weight, stride, padding, dilation, strict=True)
    room = [size - ((out - 1) * step - 2 * pad + far * (taps - 1) + 1) for out, size, taps, step, pad, far in steps]
    allowed = all(0 <= more < max(step, far) for more, step, far in zip(room, stride, dilation, strict=True))
    return room if allowed else None


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    return node.args
