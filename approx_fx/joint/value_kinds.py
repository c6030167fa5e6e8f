"""Recognizes values by the ops around them: a softmax's output, a 4-D value connected to a convolution."""

from __future__ import annotations

import torch
from torch import fx

from .op_table import ELEMENT_PRESERVING, VIEWS, name_of, skip_ops

aten = torch.ops.aten
# Ops behind which a 4-D value is no longer an image with an image's layout.
LAYOUT_CHANGING = frozenset(
    [aten.permute.default, aten.transpose.int, aten.view.default, aten.reshape.default, aten.expand.default]
)
CONVOLUTIONS = (aten.convolution.default, aten.convolution_backward.default)


def is_softmax(value: fx.Node) -> bool:
    """Whether the value is exp(x - m) / sum(exp(x - m)), its numerator, _softmax, or the exponential of a log-softmax.

    It may be in a `where` that sets rows that are masked out completely to 0.
    """
    name = name_of(value)
    if name == "where" and isinstance(value.args[2], fx.Node) and name_of(value.args[2]) == "div":
        return is_softmax(value.args[2])
    if name == "_softmax":
        return True
    if name == "exp":
        return is_normalised_exponential(value) or any(
            name_of(user) == "div" and is_softmax(user) for user in value.users
        )
    if name != "div" or not all(isinstance(arg, fx.Node) for arg in value.args[:2]):
        return False
    numerator, denominator = value.args[:2]
    is_ratio = name_of(numerator) == "exp" and name_of(denominator) == "sum"  # type: ignore[arg-type]
    return is_ratio and denominator.args[0] is numerator  # type: ignore[union-attr]


def is_normalised_exponential(value: fx.Node) -> bool:
    """Whether the value is exp(x - m) or exp(x - log-sum-exp) with a maximum or log-sum-exp of rows of x.

    Of an approximate x, with the exact one's maximum, it is not at most 1, and rows of the second do not sum to 1.
    """
    if name_of(value) != "exp":
        return False
    argument = skip_ops(value.args[0], ELEMENT_PRESERVING)  # type: ignore[arg-type]
    if name_of(argument) != "sub" or not isinstance(argument.args[1], fx.Node):
        return name_of(argument) == "_log_softmax"
    normaliser = skip_ops(argument.args[1], ELEMENT_PRESERVING | VIEWS)
    parts = normaliser.all_input_nodes if name_of(normaliser) == "add" else [normaliser]
    return any(name_of(part) in ("amax", "log", "logsumexp") for part in parts)


def connected_to_convolution(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that are connected with a convolution by 4-D values, without a view or permutation between."""
    images: set[fx.Node] = set()
    stack = [node for op in CONVOLUTIONS for node in graph.find_nodes(op="call_function", target=op)]
    while stack:
        node = stack.pop()
        if node not in images and node.target not in LAYOUT_CHANGING:
            images.add(node)
            neighbours = (*node.all_input_nodes, *node.users)
            stack.extend(other for other in neighbours if other.target in CONVOLUTIONS or _is_4d(other))
    return images


def _is_4d(node: fx.Node) -> bool:
    value = node.meta.get("val")
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    return node.op != "output" and isinstance(value, torch.Tensor) and value.ndim == 4
