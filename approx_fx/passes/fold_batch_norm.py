"""On a GPU, decodes x - mean and (x - mean) rstd of a batch normalisation directly from codes in units of sigma.

    x - mean            (q + 1/2 - 2^(K-1)) D sigma         one vector of channel constants instead of three
    (x - mean) rstd     (q + 1/2 - 2^(K-1)) D               none instead of four

In a grid that carries a mask, code 2^(K-1) does not begin at the mean. Its two additional rows hold the middle c0 of
code 0 minus the mean:

    x - mean            c0 sigma + q s D sigma              two vectors
    (x - mean) rstd     c0 + q s D                          two vectors, only the sign of one

A GPU computes about 24 operations in the time that it takes to read and write an element. Otherwise a loop that adds up
four residual branches takes 80 per element, most of them for decoding. A CPU has the constants in registers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from ..encode.base import Encoding, Layout, Stored, fake_tensor_of
from ..joint.batch_norm import TRANSPARENT, BatchNorm
from ..joint.fake_values import numel, tensor
from ..joint.op_table import CASTS, name_of, skip_ops
from ..ops import approximates
from .node_builder import Builder
from .state import Partition


@dataclass(frozen=True)
class FoldBatchNorm:
    """Pass, behind `InsertDequantize`: on a GPU, decode x - mean and (x - mean) rstd of batch norms directly."""

    def __call__(self, partition: Partition) -> Partition:
        """Replace every x - mean of a decoded x, and its product with rstd if there is one."""
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
                    if name_of(user) == "mul" and any(_is_vector(arg, norm.rstd, value, norm.dim) for arg in others):
                        _replace(builder, user, stored, value, encoding, True, copies)
                if sub.users:
                    _replace(builder, sub, stored, value, encoding, False, copies)
        return replace(partition, copies=copies)


def _differences(codes: fx.Node, value: fx.Node, norm: BatchNorm, layout: Layout) -> list[fx.Node]:
    """Every x - mean where x is decoded from the codes, permuted to the value's order of dimensions, and maybe cast."""
    differences: list[fx.Node] = []
    order = list(layout.order)
    inverse = [order.index(dim) for dim in range(len(order))]
    for decoded in [user for user in codes.users if approximates(user.target)]:
        stack = [decoded] if order == sorted(order) else [user for user in decoded.users if _permutes(user, inverse)]
        while stack:
            for user in stack.pop().users:
                if name_of(user) in CASTS:
                    stack.append(user)
                elif name_of(user) == "sub" and not user.kwargs and _is(user.args[0], decoded, CASTS | {"permute"}):
                    differences.extend([user] if _is_vector(user.args[1], norm.mean, value, norm.dim) else [])
    return differences


def _permutes(node: fx.Node, order: list[int]) -> bool:
    return name_of(node) == "permute" and list(node.args[1]) == order  # type: ignore[arg-type]


def _is(item: object, node: fx.Node, skipped: frozenset[str]) -> bool:
    """Whether an argument is the node, apart from skipped ops."""
    return isinstance(item, fx.Node) and skip_ops(item, skipped) is skip_ops(node, skipped)


def _is_vector(item: object, vector: fx.Node, value: fx.Node, dim: int) -> bool:
    """Whether an operand is `vector`, apart from casts and views, and broadcasts along the value's dimension `dim`."""
    if not _is(item, vector, TRANSPARENT):
        return False
    operand, fake = tensor(item), tensor(value)  # type: ignore[arg-type]
    if operand is None or fake is None:
        return False
    from_last = fake.ndim - dim  # broadcasting aligns dimensions from the last
    return operand.ndim >= from_last and operand.shape[operand.ndim - from_last] == numel(operand) == fake.shape[dim]


def _replace(
    builder: Builder,
    node: fx.Node,
    stored: Stored,
    value: fx.Node,
    encoding: Encoding,
    in_sigmas: bool,
    copies: dict[fx.Node, fx.Node],
) -> None:
    """Replace a node by x - mean, or (x - mean) rstd if `in_sigmas`, decoded from `stored`."""
    with builder.before(node, node) as build:
        centred = encoding.decode_centred(build, stored, value, node.meta["val"].dtype, in_sigmas)
    node.replace_all_uses_with(centred)
    if node in copies:
        copies[centred] = copies.pop(node)
