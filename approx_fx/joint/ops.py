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
SAME_PLACE = frozenset(CASTS | {"alias", "detach"})
HEAVY = frozenset(
    [
        "convolution",
        "convolution_backward",
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_backward",
        "_scaled_dot_product_efficient_attention_backward",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
        "_grouped_mm",
        "grouped_mm_fallback",
        "grouped_mm_fallback_backward",
        "mkldnn_rnn_layer",
        "mkldnn_rnn_layer_backward",
    ]
)


def through(node: fx.Node, names: frozenset[str]) -> fx.Node:
    """Follow the first argument upwards while the op's name is in `names`."""
    while name_of(node) in names and node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node
