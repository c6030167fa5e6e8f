"""Families of aten ops, as tables of names: the vocabulary of the rules and patterns."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def name_of(node: fx.Node) -> str:
    """The op's name without namespace and overload: 'relu', 'add', 'getitem', ...; '' for a non-call."""
    if node.op != "call_function":
        return ""
    if node.target is operator.getitem:
        return "getitem"
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[1]
    return getattr(target, "__name__", str(target))


# The same elements, seen through another shape, order or dtype. Bytes are not copied, or a cast copies them.
VIEWS = frozenset(
    [
        "view",
        "reshape",
        "_unsafe_view",
        "permute",
        "transpose",
        "t",
        "expand",
        "squeeze",
        "unsqueeze",
        "slice",
        "select",
        "alias",
        "detach",
        "as_strided",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "unfold",
        "diagonal",
        "view_as_complex",
        "view_as_real",
    ]
)
CASTS = frozenset(["convert_element_type", "_to_copy", "clone", "lift_fresh_copy", "contiguous", "device_put"])
COMPARISONS = frozenset(["le", "lt", "ge", "gt", "eq", "ne"])
# Their shape is the input's and their element depends on the same element alone.
ELEMENT_PRESERVING = frozenset(CASTS | {"alias", "detach"})
# Attention's backward by kernel -> the arguments that are values: the gradient, query, key, value and what came out.
# Whatever else it reads, a bias that may be a mask, the log-sum-exp, the seed of its dropout, tells where it looked.
ATTENTION_BACKWARD: dict[str, tuple[int, ...]] = {
    # grad, query, key, value, out, ...
    **dict.fromkeys(
        [
            "_scaled_dot_product_flash_attention_backward",
            "_scaled_dot_product_flash_attention_for_cpu_backward",
            "_scaled_dot_product_cudnn_attention_backward",
            "_flash_attention_backward",
            "_cudnn_attention_backward",
        ],
        (0, 1, 2, 3, 4),
    ),
    # grad, query, key, value, bias, out, ...
    **dict.fromkeys(
        ["_scaled_dot_product_efficient_attention_backward", "_efficient_attention_backward"], (0, 1, 2, 3, 5)
    ),
    # grad, query, key, value, bias, which gradients, out, ...
    "_scaled_dot_product_fused_attention_overrideable_backward": (0, 1, 2, 3, 6),
    # query, key, value, out, log-sum-exp, grad, ...
    "flex_attention_backward": (0, 1, 2, 3, 5),
}
ATTENTION = frozenset(
    name.removesuffix("_backward") if "_dot_" in name or "flex" in name else name.removesuffix("backward") + "forward"
    for name in ATTENTION_BACKWARD
)
COMPUTE_BOUND = frozenset(
    ATTENTION
    | set(ATTENTION_BACKWARD)
    | set(["convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm"])
    | set(["_grouped_mm", "grouped_mm_fallback", "grouped_mm_fallback_backward"])
    | set(["mkldnn_rnn_layer", "mkldnn_rnn_layer_backward"])
)


def skip_ops(node: fx.Node, names: frozenset[str]) -> fx.Node:
    """Follow the first argument upwards while the op's name is in `names`."""
    while name_of(node) in names and node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node
