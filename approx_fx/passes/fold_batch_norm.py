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

import torch
from torch import fx

from ..encode.base import Layout, Stored, fake_tensor_of
from ..encode.channel import Channel
from ..joint.batch_norm import TRANSPARENT, BatchNorm
from ..joint.fake_values import numel, tensor
from ..joint.ops import CASTS, name_of, skip_ops
from ..ops import channel as ops
from ..plan.plan import Plan
from .node_builder import Builder


def fold_batch_norm(plan: Plan, stored: dict[fx.Node, Stored], originals: dict[fx.Node, fx.Node]) -> None:
    """In place, behind the decoder. originals: its copies -> the values that they stand for, kept up to date."""
    builder = Builder.on(plan.joint.module.graph, True)
    for value, quantizer in plan.anchors.items():
        if not isinstance(quantizer, Channel) or not fake_tensor_of(value).is_cuda:
            continue
        codes, grid = stored[value]
        for_sigmas = None if quantizer.mask is None else grid
        chain, layout = quantizer.chain, Layout.of(fake_tensor_of(value), quantizer.bits)
        for sub in _differences(codes, value, chain, layout):
            for user in list(sub.users):
                others = [arg for arg in user.args if arg is not sub]
                if name_of(user) == "mul" and any(_is_row(arg, chain.rstd, value, chain.dim) for arg in others):
                    _replace(builder, user, (codes, for_sigmas), True, value, quantizer, originals)
            if sub.users:
                _replace(builder, sub, (codes, grid), False, value, quantizer, originals)


def _differences(codes: fx.Node, value: fx.Node, chain: BatchNorm, layout: Layout) -> list[fx.Node]:
    """Every x - mean of a decoded x, its dimensions in the value's own order, casts seen through."""
    found: list[fx.Node] = []
    order = list(layout.order)
    back = [order.index(dim) for dim in range(len(order))]
    for decoded in [user for user in codes.users if user.target is ops.dequantize_channel.overload]:
        stack = [decoded] if order == sorted(order) else [user for user in decoded.users if _permutes(user, back)]
        while stack:
            for user in stack.pop().users:
                if name_of(user) in CASTS:
                    stack.append(user)
                elif name_of(user) == "sub" and not user.kwargs and _is(user.args[0], decoded, CASTS | {"permute"}):
                    found.extend([user] if _is_row(user.args[1], chain.mean, value, chain.dim) else [])
    return found


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
    stored: tuple[fx.Node, fx.Node | None],
    sigmas: bool,
    value: fx.Node,
    quantizer: Channel,
    originals: dict[fx.Node, fx.Node],
) -> None:
    layout = Layout.of(fake_tensor_of(value), quantizer.bits)
    dtype: torch.dtype = node.meta["val"].dtype
    with builder.before(node, node) as build:
        centred = build.call(
            ops.dequantize_centred.overload, *stored, quantizer.bits, quantizer.grid, sigmas,
            layout.place(quantizer.chain.dim), layout.pack_dim, layout.length, dtype,
        )  # fmt: skip
        mine = layout.back(build, centred)
    node.replace_all_uses_with(mine)
    if node in originals:
        originals[mine] = originals.pop(node)
