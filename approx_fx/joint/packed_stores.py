"""Finds packed stores: values to be written in the same loop as the packed bytes of their codes.

A byte holds codes that are far apart along the first dimension, so the value is stored in as many slices of it as a
byte has codes. On a CPU such values are ReLUs. On a GPU they are all elementwise values that are read by a convolution
or a matrix product, along with codes and masks of the values they are computed from. `packed_store_regions` rewrites
the graph.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from .op_table import name_of, traits

aten = torch.ops.aten

# Ops that need their input in memory; a value without such a reader may never be materialized.
MATERIALIZING_READERS = frozenset({"aten.convolution.default", "prims._low_memory_max_pool_with_offsets.default"})
PRODUCTS = frozenset({"aten.mm.default", "aten.addmm.default", "aten.bmm.default"})
# The largest number of slices. Eight, for one-bit masks, were measured to be no faster on a CPU.
MAX_SLICES = {"cpu": 4, "cuda": 8}
VIEWS = frozenset({"aten.view.default", "aten.reshape.default", "aten.permute.default"})


@dataclass(frozen=True)
class Packing:
    """How an op of a packed store packs. count: codes per byte. order: the value's dimensions in the op's input."""

    count: int
    order: Sequence[int]


@dataclass(frozen=True)
class PackedStore:
    """How one value is stored.

    count: number of slices of its first dimension. packing: the ops that pack codes or masks in the same loop. inner:
    elementwise nodes, comparisons included, that the value or the ops that pack are computed by.
    """

    count: int
    packing: Mapping[fx.Node, Packing]
    inner: tuple[fx.Node, ...] = ()


def codes_per_byte(node: fx.Node, our_ops: Collection[Any]) -> int:
    """The number of codes that an op of ours packs into a byte, from as many slices of the first dimension.

    0 for any other op, and for one that packs along another dimension, pads, or splits a code over several bytes.
    """
    target, codes = node.target, _first(node.meta.get("val"))
    if target not in our_ops or not isinstance(target, OpOverload) or not isinstance(codes, torch.Tensor):
        return 0
    args = dict(zip([argument.name for argument in target._schema.arguments], node.args, strict=False))
    bits, values = args.get("bits", 1 if "mask" in args else None), args.get("x", args.get("mask"))
    if args.get("pack_dim") != 0 or not isinstance(bits, int) or not isinstance(values, fx.Node) or 8 % bits:
        return 0
    count, length = 8 // bits, values.meta["val"].shape[0]
    return count if isinstance(length, int) and length == count * codes.shape[0] > 0 else 0


def _by_parts(node: fx.Node) -> bool:
    """Whether the node may be computed for each slice of its first dimension by itself."""
    return traits(node).by_parts and _overload(node) in ("Tensor", "self", "default")


def _is_comparison(node: fx.Node) -> bool:
    """Whether the node compares a tensor with a constant."""
    return name_of(node) in ("le", "lt", "ge", "gt") and _overload(node) == "Scalar"


def _is_logic(node: fx.Node) -> bool:
    return traits(node).recompute == "logic"


def _overload(node: fx.Node) -> str:
    return node.target._overloadname if isinstance(node.target, OpOverload) else ""


def _sizes(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor whose sizes are all static; None for anything else."""
    shape = tuple(value.shape) if isinstance(value, torch.Tensor) else (None,)
    return shape if all(isinstance(size, int) for size in shape) else None  # type: ignore[return-value]


def _first(value: Any) -> Any:
    """The first item of a tuple or list; anything else as it is."""
    return value[0] if isinstance(value, (tuple, list)) and value else value


def _has_scales(node: fx.Node) -> bool:
    """Whether an op that packs also returns scales: it reduces its input first, so it cannot be in the value's loop."""
    return isinstance(node.meta.get("val"), (tuple, list))


def find_packed_stores(graph: fx.Graph, our_ops: Collection[Any]) -> dict[fx.Node, PackedStore]:
    """Value -> how it is stored, for every packed store. An op that packs belongs to at most one of them."""
    stores: dict[fx.Node, PackedStore] = {}
    claimed: set[fx.Node] = set()
    for node in graph.nodes:
        sizes = _sizes(node.meta.get("val"))
        if not _by_parts(node) or not sizes:
            continue
        device = node.meta["val"].device.type
        store = (_on_cpu if device == "cpu" else _on_gpu)(node, our_ops, claimed)
        if store is not None and 1 < store.count <= MAX_SLICES.get(device, 0) and sizes[0] % store.count == 0:
            stores[node] = store
            claimed.update(store.packing)
    return stores


def _on_cpu(relu: fx.Node, our_ops: Collection[Any], claimed: set[fx.Node]) -> PackedStore | None:
    """The packed store of a ReLU that is materialized, and whose mask is a bit in the codes of its input.

    None if the mask has a reader that packs nothing, or that finds scales first, as an op that encodes the ReLU does.
    """
    if relu.target is not aten.relu.default or not any(
        str(node.target) in MATERIALIZING_READERS for node in relu.users
    ):
        return None
    masks = [node for node in relu.users if node.target is aten.le.Scalar]
    inverted = [node for mask in masks for node in mask.users if node.target is aten.logical_not.default]
    readers = {node: order for mask in (*masks, *inverted) for node, order in _readers(mask) if node not in inverted}
    packing = {
        node: Packing(0 if _has_scales(node) else codes_per_byte(node, our_ops), order)
        for node, order in readers.items()
    }
    counts = {op.count for op in packing.values()}
    if len(counts) != 1 or not claimed.isdisjoint(packing):
        return None
    return PackedStore(counts.pop(), packing, (*masks, *inverted))


def _on_gpu(value: fx.Node, our_ops: Collection[Any], claimed: set[fx.Node]) -> PackedStore | None:
    """The packed store of a value that is materialized, with the ops that pack codes and masks of its sources.

    An op with scales is none of them: it packs in the kernel that reduces the slices, which can then write the value.
    """
    if not _is_materialized(value):
        return None
    sources = dict.fromkeys(_sources(value))
    masks = dict.fromkeys(_masks([value, *sources], _sizes(value.meta["val"])))
    packing: dict[fx.Node, Packing] = {}
    scaled_counts: set[int] = set()
    for source in (*masks, *sources):
        for node, order in _readers(source):
            count = 0 if node in claimed else codes_per_byte(node, our_ops)
            if count and _has_scales(node):
                scaled_counts.add(count)
            elif count:
                packing.setdefault(node, Packing(count, order))
    if not packing and (len(scaled_counts) != 1 or any(map(_is_scaled_by_row, sources))):
        return None
    count = max(op.count for op in packing.values()) if packing else scaled_counts.pop()
    return PackedStore(
        count,
        packing,
        tuple(node for node in (*sources, *masks) if _by_parts(node) or _is_comparison(node) or _is_logic(node)),
    )


def _is_scaled_by_row(node: fx.Node) -> bool:
    """Whether the node reads one number per row, as a norm's result does: the norm's own kernel then writes it."""
    shape = _sizes(node.meta["val"]) or ()
    rows = math.prod(shape[:-1])
    input_shapes = [_sizes(_first(source.meta.get("val"))) or () for source in node.all_input_nodes]
    return rows > 1 and any(sizes[-1:] == (1,) and math.prod(sizes) == rows for sizes in input_shapes)


def _is_materialized(value: fx.Node) -> bool:
    """Whether a convolution, a pooling, or a matrix product, through views, reads the value."""
    if any(str(user.target) in MATERIALIZING_READERS for user in value.users):
        return True
    readers = list(value.users)
    while any(str(reader.target) in VIEWS for reader in readers):
        readers = [user for node in readers for user in (node.users if str(node.target) in VIEWS else [node])]
    return any(str(reader.target) in PRODUCTS for reader in readers)


def _readers(node: fx.Node) -> Iterator[tuple[fx.Node, Sequence[int]]]:
    """The readers of a node, through a permutation that keeps dimension 0 first, each with the order of dimensions."""
    unpermuted = range(node.meta["val"].ndim)
    for user in node.users:
        order: Any = user.args[1] if user.target is aten.permute.default else ()
        if order and order[0] == 0:
            yield from ((reader, order) for reader in user.users)
        else:
            yield user, unpermuted


def _sources(value: fx.Node) -> Iterator[fx.Node]:
    """The values of the same shape that a value is computed from element by element, back to those read from memory."""
    shape, stack = _sizes(value.meta["val"]), list(value.all_input_nodes)
    visited: set[fx.Node] = set()
    while stack:
        node = stack.pop()
        if node not in visited and _sizes(node.meta.get("val")) == shape:
            visited.add(node)
            yield node
            if _by_parts(node):
                stack.extend(node.all_input_nodes)


def _masks(values: Iterable[fx.Node], sizes: tuple[int, ...] | None) -> Iterator[fx.Node]:
    """Comparisons of these values with constants, and logical functions of them, if of shape `sizes`."""
    stack = [user for value in values for user in value.users if _is_comparison(user)]
    while stack:
        node = stack.pop()
        if _sizes(node.meta.get("val")) == sizes:
            yield node
            stack.extend(user for user in node.users if _is_logic(user))
