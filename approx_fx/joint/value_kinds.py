"""What kind of thing a value is, where that decides how it is coded: an image with channels, a softmax's output."""

from __future__ import annotations

import torch
from torch import fx

from .fake_values import shape, tensor
from .ops import ELEMENT_PRESERVING, name_of, skip_ops

IMAGES = frozenset(
    ["convolution", "upsample_nearest2d", "upsample_bilinear2d", "avg_pool2d", "_adaptive_avg_pool2d", "pixel_shuffle"]
)
DEPTH = 16
aten = torch.ops.aten
# Behind them a 4-D value is no image laid out as one.
TURNING = frozenset(
    [aten.permute.default, aten.transpose.int, aten.view.default, aten.reshape.default, aten.expand.default]
)
CONVOLUTIONS = (aten.convolution.default, aten.convolution_backward.default)


def is_image(value: fx.Node) -> bool:
    """Whether a value [N, C, ...] is made or read by a convolution, pointwise ops between them aside."""
    own = tensor(value)
    if own is None or own.ndim < 4:
        return False
    for _ in range(DEPTH):
        if name_of(value) in IMAGES or "max_pool" in name_of(value):
            return True
        if any(name_of(user) == "convolution" and user.args[0] is value for user in value.users):
            return True
        if name_of(value) == "getitem":
            value = value.args[0]  # type: ignore[assignment]
            continue
        same = [i for i in value.all_input_nodes if shape(i) == shape(own)]
        if not same or value.op != "call_function":
            return False
        value = same[0]
    return False


def is_softmax(value: fx.Node) -> bool:
    """Whether the value is exp(x - m) / sum(exp(x - m)), _softmax, or the exponential of a log-softmax.

    Rows that are masked out altogether may be set to 0.
    """
    name = name_of(value)
    if name == "where" and isinstance(value.args[2], fx.Node) and name_of(value.args[2]) == "div":
        return is_softmax(value.args[2])
    if name == "_softmax":
        return True
    if name == "exp":
        logarithm = skip_ops(value.args[0], ELEMENT_PRESERVING)  # type: ignore[arg-type]
        return name_of(logarithm) in ("_log_softmax",) or (
            name_of(logarithm) == "sub"
            and isinstance(logarithm.args[1], fx.Node)
            and name_of(logarithm.args[1]) == "log"
        )
    if name != "div" or not all(isinstance(arg, fx.Node) for arg in value.args[:2]):
        return False
    top, bottom = value.args[:2]
    return name_of(top) == "exp" and name_of(bottom) == "sum" and bottom.args[0] is top  # type: ignore[union-attr, arg-type]


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


def _is_4d(node: fx.Node) -> bool:
    value = node.meta.get("val")
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    return node.op != "output" and isinstance(value, torch.Tensor) and value.ndim == 4
