"""On a GPU: what a batch normalisation made of a value, straight from its codes, which are in units of its sigma.

    x - mean            (q + 1/2 - 2^(K-1)) D sigma         one row of channel constants instead of three
    (x - mean) rstd     (q + 1/2 - 2^(K-1)) D               none instead of four

The threshold of a grid that carries a mask lies elsewhere than at the mean. It keeps what code 0 stands for:

    x - mean            c0 sigma + q s D sigma              two rows
    (x - mean) rstd     c0 + q s D                          two, of one only the sign

A GPU computes about 24 operations in the time that it takes to read an element and write it. A loop that adds up four
residual branches has 80 an element otherwise, most of them for this. A CPU has the constants in registers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from ..encode.base import Encoding, Layout, Stored, fake_tensor_of
from ..joint.batch_norm import TRANSPARENT, BatchNorm
from ..joint.fake_values import numel, tensor
from ..joint.op_table import CASTS
from ..joint.ops import name_of, skip_ops
from ..ops import approximates
from .node_builder import Builder
from .state import Partition


@dataclass(frozen=True)
class FoldBatchNorm:
    """Behind `InsertDequantize`: differences with a batch's mean are decoded as such, where a GPU computes them."""

    def __call__(self, partition: Partition) -> Partition:
        """Replace every such difference, and its product with 1/sigma."""
        builder = Builder.on(partition.plan.joint.module.graph, True)
        copies = dict(partition.copies)
        for value, encoding in partition.plan.anchors.items():
            norm = encoding.batch_norm()
            if norm is None or not fake_tensor_of(value).is_cuda:
                continue
            stored = partition.stored[value]
            for sub in _differences(stored[0], value, norm, Layout.of(fake_tensor_of(value), encoding.bits)):
                for user in list(sub.users):
                    others = [arg for arg in user.args if arg is not sub]
                    if name_of(user) == "mul" and any(_is_row(arg, norm.rstd, value, norm.dim) for arg in others):
                        _replace(builder, user, stored, value, encoding, True, copies)
                if sub.users:
                    _replace(builder, sub, stored, value, encoding, False, copies)
        return replace(partition, copies=copies)


def _differences(codes: fx.Node, value: fx.Node, norm: BatchNorm, layout: Layout) -> list[fx.Node]:
    """Every x - mean of a decoded x, its dimensions in the value's own order, casts seen through."""
    differences: list[fx.Node] = []
    order = list(layout.order)
    back = [order.index(dim) for dim in range(len(order))]
    for decoded in [user for user in codes.users if approximates(user.target)]:
        stack = [decoded] if order == sorted(order) else [user for user in decoded.users if _permutes(user, back)]
        while stack:
            for user in stack.pop().users:
                if name_of(user) in CASTS:
                    stack.append(user)
                elif name_of(user) == "sub" and not user.kwargs and _is(user.args[0], decoded, CASTS | {"permute"}):
                    differences.extend([user] if _is_row(user.args[1], norm.mean, value, norm.dim) else [])
    return differences


def _permutes(node: fx.Node, order: list[int]) -> bool:
    return name_of(node) == "permute" and list(node.args[1]) == order  # type: ignore[arg-type]


def _is(item: object, node: fx.Node, passed: frozenset[str]) -> bool:
    return isinstance(item, fx.Node) and skip_ops(item, passed) is skip_ops(node, passed)


def _is_row(item: object, row: fx.Node, value: fx.Node, dim: int) -> bool:
    """Whether an operand is the row, along the value's dimension `dim`."""
    if not _is(item, row, TRANSPARENT):
        return False
    own, whole = tensor(item), tensor(value)  # type: ignore[arg-type]
    if own is None or whole is None:
        return False
    behind = whole.ndim - dim  # of the operand's dimensions, counted from the last
    return own.ndim >= behind and own.shape[own.ndim - behind] == numel(own) == whole.shape[dim]


def _replace(
    builder: Builder,
    node: fx.Node,
    stored: Stored,
    value: fx.Node,
    encoding: Encoding,
    in_sigmas: bool,
    copies: dict[fx.Node, fx.Node],
) -> None:
    with builder.before(node, node) as build:
        centred = encoding.decode_centred(build, stored, value, node.meta["val"].dtype, in_sigmas)
    node.replace_all_uses_with(centred)
    if node in copies:
        copies[centred] = copies.pop(node)
