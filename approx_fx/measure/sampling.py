"""Which values are measured on a part of their rows: the first of `PARTS` equal parts of dimension 0.

Encoding, decoding and recomputing a large value costs several passes over it, and an eighth of a batch tells as much as
the batch. A part can be used where everything that is recomputed from a value works on each part by itself: pointwise
ops, views, and ops along other dimensions. A view keeps the order of elements, so that the first part of its argument
becomes the first part of its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from ..joint.fake_values import memory_order, tensor
from ..joint.op_table import name_of, traits

PARTS = 8
# Smaller values are measured whole.
MIN_ELEMENTS = 2**18

POINTWISE = frozenset(["arithmetic", "smooth", "kink", "select", "cast", "logic"])
SIZED = frozenset(["view", "reshape", "_unsafe_view", "expand"])


def parts(made: Sequence[fx.Node], sources: Mapping[fx.Node, Sequence[fx.Node]]) -> dict[fx.Node, int]:
    """Value -> into how many parts its rows are divided, of which the first is measured; 1 for the whole.

    made: the values that are copied, in graph order. sources: value -> those of them that its copy reads.
    """
    number = {value: PARTS if _can_be_divided(value, sources[value]) else 1 for value in made}
    for value in reversed(made):  # what is recomputed whole needs whole copies
        if number[value] == 1:
            number.update(dict.fromkeys(sources[value], 1))
    for value in made:
        if all(number[source] == 1 for source in sources[value]) and sources[value] and _is_small(value):
            number[value] = 1
    return number


def first_part(value: Any, count: int) -> Any:
    """The first of `count` equal parts of a tensor's rows."""
    return value if count == 1 else value[: value.shape[0] // count]


def divided_arguments(node: fx.Node, count: int, value_of: Mapping[fx.Node, Any]) -> tuple[Any, Any]:
    """The arguments with which a node computes the first of `count` parts of its value.

    value_of: its operands; those that are not divided yet and have the node's rows are divided here.
    """
    fake = tensor(node)
    assert fake is not None, "only a value that is one tensor is divided"
    rows = int(fake.shape[0])

    def part_of(source: fx.Node) -> Any:
        value, whole = value_of[source], tensor(source)
        if whole is None or name_of(node) in SIZED - {"expand"}:
            return value if whole is None or value.shape[0] != whole.shape[0] else first_part(value, count)
        has_rows = whole.ndim == fake.ndim and whole.shape[0] == rows
        return first_part(value, count) if has_rows and value.shape[0] == rows else value

    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), part_of)
    if name_of(node) in SIZED:
        args = (args[0], [rows // count, *fake.shape[1:]], *args[2:])
    return args, kwargs


def _can_be_divided(value: fx.Node, sources: Sequence[fx.Node]) -> bool:
    fake = tensor(value)
    if fake is None or fake.ndim < 2 or not all(isinstance(size, int) for size in fake.shape):
        return False
    order = memory_order(fake)
    if not fake.shape[0] or fake.shape[0] % PARTS or order is None:
        return False
    if not sources:
        return order[0] == 0 and not _is_small(value)
    name, kind = name_of(value), traits(value).recompute
    if name in SIZED:
        whole = tensor(sources[0])
        return whole is not None and whole.ndim > 0 and whole.shape[0] % PARTS == 0
    if name in ("permute", "transpose"):
        dims: Any = value.args[1] if name == "permute" else value.args[1:3]
        return bool(dims[0] == 0) if name == "permute" else not {0, -fake.ndim} & set(dims)
    same_rows = all(
        whole is not None and whole.ndim == fake.ndim and whole.shape[0] == fake.shape[0]
        for whole in map(tensor, sources)
    )
    is_cat_of_rows = name == "cat" and value.args[1:] not in ((), (0,), (-fake.ndim,))
    return same_rows and (kind in POINTWISE or is_cat_of_rows)


def _is_small(value: fx.Node) -> bool:
    fake = tensor(value)
    return fake is None or fake.numel() < MIN_ELEMENTS


def divided_fake(value: fx.Node, count: int) -> fx.Node:
    """A node for the first part of a value's rows, for encodings, which read a node's shape and strides."""
    fake = tensor(value)
    assert fake is not None, "only a value that is one tensor is coded"
    part = fx.Graph().placeholder(value.name)
    with torch.no_grad():
        part.meta = {**value.meta, "val": first_part(fake, count)}
    return part
