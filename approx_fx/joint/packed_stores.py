"""Finds the values that are stored in as many parts as a byte holds of their codes, and the ops that pack with them.

On a CPU those are ReLUs. On a GPU they are whatever is computed element by element and read by a convolution or a
matrix product: with it go the codes and masks of all that it is computed from. `packed_store_regions`
rewrites the graph.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from .op_table import traits
from .ops import name_of

aten = torch.ops.aten

# What wants its input in memory: a value that goes nowhere else may never be written.
READERS = frozenset({"aten.convolution.default", "prims._low_memory_max_pool_with_offsets.default"})
PRODUCTS = frozenset({"aten.mm.default", "aten.addmm.default", "aten.bmm.default"})
# Parts at most. On a CPU eight, a mask's, were measured to be no faster; a GPU reads them from memory side by side.
MOST = {"cpu": 4, "cuda": 8}
VIEWS = frozenset({"aten.view.default", "aten.reshape.default", "aten.permute.default"})


@dataclass(frozen=True)
class Packing:
    """An op that packs codes of what a value is made of, or its mask. count: codes a byte; order: of dimensions."""

    count: int
    order: Sequence[int]


@dataclass(frozen=True)
class PackedStore:
    """How one value is stored.

    count: parts of its first dimension; packing: the ops whose bytes are made of the parts. inner: nodes that are
    computed element by element on the way to the value, or compared for a mask, in the order of the graph.
    """

    count: int
    packing: Mapping[fx.Node, Packing]
    inner: tuple[fx.Node, ...] = ()


def codes_per_byte(node: fx.Node, ours: Collection[Any]) -> int:
    """How many values one of `ours` packs into a byte, from as many parts of its first dimension; 0 for anything else.

    Anything else is also what packs along another dimension, pads, or splits a code over several bytes.
    """
    target, codes = node.target, _first(node.meta.get("val"))
    if target not in ours or not isinstance(target, OpOverload) or not isinstance(codes, torch.Tensor):
        return 0
    given = dict(zip([argument.name for argument in target._schema.arguments], node.args, strict=False))
    bits, values = given.get("bits", 1 if "mask" in given else None), given.get("x", given.get("mask"))
    if given.get("pack_dim") != 0 or not isinstance(bits, int) or not isinstance(values, fx.Node) or 8 % bits:
        return 0
    count, length = 8 // bits, values.meta["val"].shape[0]
    return count if isinstance(length, int) and length == count * codes.shape[0] > 0 else 0


def _by_parts(node: fx.Node) -> bool:
    """Whether the node is computed element by element from values of the same shape."""
    return traits(node).by_parts and _overload(node) in ("Tensor", "self", "default")


def _is_comparison(node: fx.Node) -> bool:
    """Whether the node tells on which side of a constant each element is."""
    return name_of(node) in ("le", "lt", "ge", "gt") and _overload(node) == "Scalar"


def _is_logic(node: fx.Node) -> bool:
    return traits(node).recompute == "logic"


def _overload(node: fx.Node) -> str:
    return node.target._overloadname if isinstance(node.target, OpOverload) else ""


def _sizes(value: Any) -> tuple[int, ...] | None:
    """A tensor's shape, if all of it are numbers."""
    shape = tuple(value.shape) if isinstance(value, torch.Tensor) else (None,)
    return shape if all(isinstance(size, int) for size in shape) else None  # type: ignore[return-value]


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, (tuple, list)) and value else value


def _has_scales(node: fx.Node) -> bool:
    """Whether the op finds scales of its own before it codes: it is no part of a loop over what it codes."""
    return isinstance(node.meta.get("val"), (tuple, list))


def find_packed_stores(graph: fx.Graph, ours: Collection[Any]) -> dict[fx.Node, PackedStore]:
    """The values to be stored in parts; no packing op goes with two of them."""
    stores: dict[fx.Node, PackedStore] = {}
    taken: set[fx.Node] = set()
    for node in graph.nodes:
        sizes = _sizes(node.meta.get("val"))
        if not _by_parts(node) or not sizes:
            continue
        device = node.meta["val"].device.type
        store = (_on_cpu if device == "cpu" else _on_gpu)(node, ours, taken)
        if store is not None and 1 < store.count <= MOST.get(device, 0) and sizes[0] % store.count == 0:
            stores[node] = store
            taken.update(store.packing)
    return stores


def _on_cpu(relu: fx.Node, ours: Collection[Any], taken: set[fx.Node]) -> PackedStore | None:
    """A ReLU that is written, and whose sign goes into codes of what it comes from.

    Not one whose mask is kept as it is, nor one that is coded itself.
    """
    if relu.target is not aten.relu.default or not any(str(node.target) in READERS for node in relu.users):
        return None
    signs = [node for node in relu.users if node.target is aten.le.Scalar]
    turned = [node for sign in signs for node in sign.users if node.target is aten.logical_not.default]
    readers = {node: order for sign in (*signs, *turned) for node, order in _readers(sign) if node not in turned}
    packing = {
        node: Packing(0 if _has_scales(node) else codes_per_byte(node, ours), order) for node, order in readers.items()
    }
    counts = {op.count for op in packing.values()}
    if len(counts) != 1 or not taken.isdisjoint(packing):
        return None
    return PackedStore(counts.pop(), packing, (*signs, *turned))


def _on_gpu(value: fx.Node, ours: Collection[Any], taken: set[fx.Node]) -> PackedStore | None:
    """A value that is written, and whose sources are coded, or compared for masks that are kept.

    Codes with scales of their own are packed in as many parts by the kernel that finds those: it then writes the value.
    """
    if not _is_written(value):
        return None
    sources = dict.fromkeys(_sources(value))
    masks = dict.fromkeys(_masks([value, *sources], _sizes(value.meta["val"])))
    packing: dict[fx.Node, Packing] = {}
    scaled: set[int] = set()
    for source in (*masks, *sources):
        for node, order in _readers(source):
            count = 0 if node in taken else codes_per_byte(node, ours)
            if count and _has_scales(node):
                scaled.add(count)
            elif count:
                packing.setdefault(node, Packing(count, order))
    if not packing and (len(scaled) != 1 or any(map(_is_scaled_by_row, sources))):
        return None
    count = max(op.count for op in packing.values()) if packing else scaled.pop()
    return PackedStore(
        count,
        packing,
        tuple(node for node in (*sources, *masks) if _by_parts(node) or _is_comparison(node) or _is_logic(node)),
    )


def _is_scaled_by_row(node: fx.Node) -> bool:
    """Whether it reads a number for each row: the kernel that finds that number, a norm's, writes the value as well."""
    own = _sizes(node.meta["val"]) or ()
    rows = math.prod(own[:-1])
    read = [_sizes(_first(source.meta.get("val"))) or () for source in node.all_input_nodes]
    return rows > 1 and any(sizes[-1:] == (1,) and math.prod(sizes) == rows for sizes in read)


def _is_written(value: fx.Node) -> bool:
    if any(str(user.target) in READERS for user in value.users):
        return True
    readers = list(value.users)
    while any(str(reader.target) in VIEWS for reader in readers):
        readers = [user for each in readers for user in (each.users if str(each.target) in VIEWS else [each])]
    return any(str(reader.target) in PRODUCTS for reader in readers)


def _readers(node: fx.Node) -> Iterator[tuple[fx.Node, Sequence[int]]]:
    """Who reads a node, and in which order of its dimensions: as it is, or permuted with the first one first."""
    plain = range(node.meta["val"].ndim)
    for user in node.users:
        order: Any = user.args[1] if user.target is aten.permute.default else ()
        if order and order[0] == 0:
            yield from ((reader, order) for reader in user.users)
        else:
            yield user, plain


def _sources(value: fx.Node) -> Iterator[fx.Node]:
    """What a value is computed from, element by element, back to what is read from memory."""
    shape, todo = _sizes(value.meta["val"]), list(value.all_input_nodes)
    found: set[fx.Node] = set()
    while todo:
        node = todo.pop()
        if node not in found and _sizes(node.meta.get("val")) == shape:
            found.add(node)
            yield node
            if _by_parts(node):
                todo.extend(node.all_input_nodes)


def _masks(values: Iterable[fx.Node], sizes: tuple[int, ...] | None) -> Iterator[fx.Node]:
    """Comparisons of these values with constants, and what logic makes of them in the same shape."""
    todo = [user for value in values for user in value.users if _is_comparison(user)]
    while todo:
        node = todo.pop()
        if _sizes(node.meta.get("val")) == sizes:
            yield node
            todo.extend(user for user in node.users if _is_logic(user))
