"""How ops carry rows: the rules by which a value that is computed row by row is recognized.

A value has N rows if the product of its first `leading` dimensions is N: logits [N, V], or [B, T, V] with N = B T and
`leading` 2. `leading` 0 is a value that is the same for all rows. A value [V, N], of rows transposed, has `TRANSPOSED`.
A chunk of a value with rows is [n, ...]: its leading dimensions are one.

Where an op takes a part of T, as a shift of the logits does, the rows are the B sequences instead: `leading` is 1, and
a value [B m, ...] has m places for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..joint.fake_values import is_size, tensor
from ..joint.op_table import name_of
from ..torch_compat.fake_tensors import is_known

TRANSPOSED = -1
WHOLE = 0

# Ops that keep the order of elements: a result's leading dimensions are those whose product is N.
REGROUP = frozenset(["view", "reshape", "_unsafe_view", "unsqueeze", "squeeze"])
# Pointwise ops that have no tag, or that torch does not call so.
POINTWISE = frozenset(["convert_element_type", "clone", "expand", "_to_copy", "alias", "detach"])
REDUCE = frozenset(["sum", "mean", "amax", "amin", "any", "all", "prod", "logsumexp", "argmax", "argmin"])
# Reductions whose value for all rows follows from those for chunks of them.
TOTALS = frozenset(["sum", "mean"])
PRODUCTS = frozenset(["mm", "addmm"])
# Ops along one dimension -> the position of that argument.
ALONG = {"gather": 1, "slice": 1, "select": 1, "scatter_add": 1, "select_scatter": 2, "slice_scatter": 2}


@dataclass(frozen=True)
class Rows:
    """count: how many rows there are, see `shape`. are_sequences: a row is all that has one index in the first
    dimension."""

    count: Any
    are_sequences: bool = False

    def leading(self, sizes: Sequence[Any]) -> int:
        """The number of first dimensions that are rows. Raises NotByRows if none are."""
        if self.are_sequences:
            if sizes and is_known(sizes[0] % self.count == 0):
                return 1
            raise NotByRows("view")
        for count in range(1, len(sizes) + 1):
            if is_known(math.prod(sizes[:count]) == self.count):
                return count
        raise NotByRows("view")

    def places(self, sizes: Sequence[Any], leading: int) -> Any:
        """The places that each row has in the first dimensions of a value; 1 but for sequences."""
        return _plain(math.prod(sizes[:leading]) // self.count)


class NotByRows(Exception):
    """A value is not computed row by row. The text says which op."""


@dataclass(frozen=True)
class Reading:
    """How an op reads rows. leading: of its result, None if the result is a sum over all rows; operands: of each input
    node."""

    leading: int | None
    operands: Mapping[fx.Node, int]


def reading(node: fx.Node, leading: Mapping[fx.Node, int], rows: Rows) -> Reading:
    """How the node computes its result from values with rows. leading: of those of its inputs that are known.

    Raises:
        NotByRows: it mixes rows otherwise than by a sum.
    """
    name = name_of(node)
    known = {source: leading[source] for source in operands(node) if source in leading}
    if tensor(node) is None or (TRANSPOSED in known.values() and name not in ("permute", "mm")):
        raise NotByRows(name)
    if is_pointwise(node):
        return _pointwise(node, max(known.values()) and rows.leading(shape(node)), rows)
    rule = _RULES.get(name)
    if rule is None:
        raise NotByRows(name)
    return rule(node, known, rows)


def demanded(node: fx.Node, leading: int, rows: Rows) -> Reading:
    """How a node whose result has to have these rows reads its inputs, of which none is known.

    Raises:
        NotByRows: it is not computed row by row.
    """
    name = name_of(node)
    if name == "full" or (name in ("iota", "scalar_tensor") and leading == WHOLE):
        return Reading(leading, {})
    if leading == TRANSPOSED:
        if name != "permute":
            raise NotByRows(name)
        return Reading(TRANSPOSED, {node.all_input_nodes[0]: 1})
    if is_pointwise(node):
        return _pointwise(node, leading, rows)
    if name in REGROUP:
        source = node.all_input_nodes[0]
        return Reading(leading, {source: rows.leading(shape(source)) if leading else WHOLE})
    if name in PRODUCTS and leading == 1:
        return _product(node, {}, rows)
    if name in ALONG or name == "constant_pad_nd":
        return _RULES[name](node, {}, rows)
    if name in REDUCE:
        source = node.all_input_nodes[0]
        known = rows.leading(shape(source)) if leading else WHOLE
        if all(dim >= known for dim in reduced_dims(node)):
            return Reading(leading, {source: known})
    raise NotByRows(name)


def is_pointwise(node: fx.Node) -> bool:
    """Return True for an elementwise op: element i of its result depends on element i of each operand alone."""
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or name_of(node) in POINTWISE


def shape(node: fx.Node) -> tuple[Any, ...]:
    """The value's sizes, numbers or symbolic ones, which only `is_known` may compare. Raises NotByRows for what is no
    tensor."""
    fake = tensor(node)
    if fake is None:
        raise NotByRows(name_of(node))
    return tuple(fake.shape)


def same(sizes: Sequence[Any], others: Sequence[Any]) -> bool:
    """Return True if both lists of sizes are equal for all sizes that the graph may be called with."""
    return len(sizes) == len(others) and all(is_known(a == b) for a, b in zip(sizes, others, strict=True))


def _plain(size: Any) -> Any:
    """Return a symbolic size that is a constant as an int, and any other size unchanged."""
    return int(str(size)) if str(size).isdigit() else size


def operands(node: fx.Node) -> list[fx.Node]:
    """Return the inputs of a node that are values, without those that are symbolic sizes."""
    return [source for source in node.all_input_nodes if not is_size(source)]


def _pointwise(node: fx.Node, leading: int, rows: Rows) -> Reading:
    if leading == TRANSPOSED:
        raise NotByRows(name_of(node))
    sizes = shape(node)
    return Reading(leading, {source: _aligned(sizes, shape(source), leading) for source in operands(node)})


def _aligned(sizes: Sequence[Any], operand: Sequence[Any], leading: int) -> int:
    """The leading dimensions of an operand that is broadcast to `sizes`."""
    missing = len(sizes) - len(operand)
    row_sizes = ([1] * missing + list(operand))[:leading]
    if same(row_sizes, sizes[:leading]) and leading > missing:
        return leading - missing
    if all(is_known(size == 1) for size in row_sizes):
        return WHOLE
    raise NotByRows("broadcasting")


def _regroup(node: fx.Node, known: Mapping[fx.Node, int], rows: Rows) -> Reading:
    (source, leading), *_ = known.items()
    if leading == TRANSPOSED:
        raise NotByRows(name_of(node))
    return Reading(rows.leading(shape(node)) if leading else WHOLE, {source: leading})


def reduced_dims(node: fx.Node) -> list[int]:
    """The dimensions that a reduction reduces, from 0."""
    count = len(shape(node.all_input_nodes[0]))
    dims: Any = node.args[1] if len(node.args) > 1 else None
    dims = [dims] if isinstance(dims, int) else dims
    return sorted(dim % count for dim in dims) if dims else list(range(count))


def _reduce(node: fx.Node, known: Mapping[fx.Node, int], _: Rows) -> Reading:
    (source, leading), *_rest = known.items()
    dims = reduced_dims(node)
    if leading == TRANSPOSED:
        raise NotByRows(name_of(node))
    if all(dim >= leading for dim in dims):
        return Reading(leading, {source: leading})
    if name_of(node) in TOTALS and set(range(leading)) <= set(dims):
        return Reading(None, {source: leading})
    raise NotByRows(f"{name_of(node)} over some rows")


def permutation(node: fx.Node) -> list[int]:
    """The order of dimensions of a permute, from 0."""
    order: Any = node.args[1]
    return [dim % len(order) for dim in order]


def _permute(node: fx.Node, known: Mapping[fx.Node, int], _: Rows) -> Reading:
    (source, leading), *_rest = known.items()
    order = permutation(node)
    if len(order) == 2 and order == [1, 0] and leading in (1, TRANSPOSED):
        return Reading(TRANSPOSED if leading == 1 else 1, {source: leading})
    if leading >= 0 and order[:leading] == list(range(leading)):
        return Reading(leading, {source: leading})
    raise NotByRows("permute")


def _product(node: fx.Node, known: Mapping[fx.Node, int], _: Rows) -> Reading:
    """A product [N, K] [K, M] has rows; one [M, N] [N, K] is a sum over them."""
    *bias, a, b = node.args
    assert isinstance(a, fx.Node) and isinstance(b, fx.Node), "the operands of a product are nodes"
    has_rows = any(isinstance(item, fx.Node) and (item in known or len(shape(item)) > 1) for item in bias)
    if node.kwargs or has_rows:
        raise NotByRows(name_of(node))
    whole = {item: WHOLE for item in bias if isinstance(item, fx.Node)}
    if known.get(a, 1) == 1 and known.get(b, WHOLE) == WHOLE and known.get(a) != TRANSPOSED:
        return Reading(1, {**whole, a: 1, b: WHOLE})
    if not bias and known.get(a, TRANSPOSED) == TRANSPOSED and known.get(b, 1) == 1:
        return Reading(None, {a: TRANSPOSED, b: 1})
    raise NotByRows(name_of(node))


def _along(node: fx.Node, known: Mapping[fx.Node, int], rows: Rows) -> Reading:
    """An op along one dimension, which has to be none of the rows'. Other inputs have rows, too."""
    source = node.all_input_nodes[0]
    leading = rows.leading(shape(source))
    position = ALONG[name_of(node)]
    dim = node.args[position] if len(node.args) > position else 0
    if not isinstance(dim, int) or dim % len(shape(source)) < leading or known.get(source, leading) != leading:
        raise NotByRows(name_of(node))
    if not all(same(shape(other)[:leading], shape(source)[:leading]) for other in operands(node)):
        raise NotByRows(f"{name_of(node)} of some rows")
    return Reading(leading, {other: leading for other in operands(node)})


def _pad(node: fx.Node, _: Mapping[fx.Node, int], rows: Rows) -> Reading:
    """A padding, which must leave the rows as they are."""
    source, pads = node.all_input_nodes[0], node.args[1]
    leading = rows.leading(shape(source))
    if len(pads) // 2 > len(shape(source)) - leading:  # type: ignore[arg-type]
        raise NotByRows("padding")
    return Reading(leading, {source: leading})


_RULES: dict[str, Callable[[fx.Node, Mapping[fx.Node, int], Rows], Reading]] = {
    **dict.fromkeys(REGROUP, _regroup),
    **dict.fromkeys(REDUCE, _reduce),
    **dict.fromkeys(PRODUCTS, _product),
    "permute": _permute,
    "constant_pad_nd": _pad,
    **dict.fromkeys(ALONG, _along),
}
