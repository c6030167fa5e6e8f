"""In the backward, a concatenation of decoded values becomes one decoding of concatenated codes.

    cat([decode(q1, s1), decode(q2, s2), ...])      decode(cat([q1, q2, ...]), cat([s1, s2, ...]))

In a dense block each layer reads all that came before it: n layers decode n^2 / 2 values, in a loop of its own each.
Codes are an eighth of the bytes to copy, and what a layer reads is the beginning of what the layer behind it has read:
its codes are a slice of those. A compiler then has one loop a layer to write.

Where a tile holds the whole of the dimension along which values are put together, as all channels of some pixels, the
values lie along a dimension of their own while they are decoded: [B, n C, H, W] as [B, n, C, H, W].
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import fx

from ..joint.ops import name_of
from ..ops import group
from .node_builder import Builder
from .state import Partition

aten = torch.ops.aten
# decoder -> dimensions of its scale before those that the value has
SCALE_OFFSET: dict[Any, int] = {group.dequantize_group.overload: 1, group.dequantize_relu.overload: 0}


@dataclass(frozen=True)
class Decoding:
    """The decoding of an operand that only the concatenation reads.

    bits, tile_dim, group, pack_dim, length, dtype: the decoder's. order: that its result is permuted in, or None.
    dim: of the codes, along which operands are put together. size: its length, if a tile holds the whole of it, else 0.
    """

    target: Callable[..., Any]
    bits: int
    tile_dim: int
    group: int
    pack_dim: int
    length: int
    dtype: torch.dtype
    order: tuple[int, ...] | None
    dim: int
    size: int

    @property
    def scale_dim(self) -> int:
        """The dimension of the scale that `dim` is; the tiles' own is split in two there."""
        return SCALE_OFFSET[self.target] + self.dim + (self.dim > self.tile_dim)


@dataclass(frozen=True)
class ConcatenateCodes:
    """Neighbouring operands of a concatenation that are coded in the same way are decoded at once."""

    def __call__(self, partition: Partition) -> Partition:
        """Rewrite the backward's concatenations."""
        concatenate_codes(partition.backward)
        return partition


def concatenate_codes(backward: fx.GraphModule) -> None:
    """Decode neighbouring operands of a concatenation at once, in place, where they are coded in the same way."""
    graph = backward.graph
    joiner = Joiner(Builder.on(graph, True))
    for node in graph.find_nodes(op="call_function", target=aten.cat.default):
        operands: Any = node.args[0]
        dim: Any = (node.args[1] if len(node.args) > 1 else 0) % node.meta["val"].ndim  # type: ignore[operator]
        joiner.builder.origin = node
        kept: list[fx.Node] = []
        for decoding, run in itertools.groupby(operands, partial(_decoding, dim=dim)):
            nodes = list(run)
            if decoding is None or len(nodes) == 1:
                kept += nodes
            else:
                with graph.inserting_before(node):
                    kept.append(joiner.decode(decoding, [_decoder(item) for item in nodes]))
        if len(kept) == 1:
            node.replace_all_uses_with(kept[0])
            graph.erase_node(node)
        else:
            node.args = (kept, dim)
    graph.eliminate_dead_code()
    graph.lint()
    backward.recompile()


@dataclass
class Joiner:
    """Concatenates codes, and scales. joined: (first part, dimension) -> what was concatenated, and the result."""

    builder: Builder
    joined: dict[tuple[fx.Node, int], list[tuple[tuple[fx.Node, ...], fx.Node]]] = field(default_factory=dict)

    def decode(self, how: Decoding, decoders: list[fx.Node]) -> fx.Node:
        """One decoding of what these decode one by one."""
        call, dim, scale_dim = self.builder.call, how.dim, how.scale_dim
        codes = self.join(tuple(node.args[0] for node in decoders), dim)  # type: ignore[misc]
        scale = self.join(tuple(node.args[1] for node in decoders), scale_dim)  # type: ignore[misc]
        tile_dim, pack_dim = how.tile_dim, how.pack_dim
        if how.size:
            shape = list(codes.meta["val"].shape)
            codes = call(aten.view.default, codes, [*shape[:dim], len(decoders), how.size, *shape[dim + 1 :]])
            scale = call(aten.unsqueeze.default, scale, scale_dim + 1)
            tile_dim, pack_dim = (place + (place > dim) for place in (tile_dim, pack_dim))
        value = call(how.target, codes, scale, how.bits, tile_dim, how.group, pack_dim, how.length, how.dtype)
        if how.size:
            shape = list(value.meta["val"].shape)
            value = call(aten.reshape.default, value, [*shape[:dim], len(decoders) * how.size, *shape[dim + 2 :]])
        return value if how.order is None else call(aten.permute.default, value, list(how.order))

    def join(self, parts: tuple[fx.Node, ...], dim: int) -> fx.Node:
        """The concatenation of the parts: a slice of an earlier one that begins with them, or a new one."""
        for earlier, whole in self.joined.get((parts[0], dim), []):
            if earlier == parts:
                return whole
            if earlier[: len(parts)] == parts:
                length = sum(part.meta["val"].shape[dim] for part in parts)
                return self.builder.call(aten.slice.Tensor, whole, dim, 0, length)
        whole = self.builder.call(aten.cat.default, list(parts), dim)
        self.joined.setdefault((parts[0], dim), []).append((parts, whole))
        return whole


def _decoder(item: fx.Node) -> fx.Node:
    """The node that decodes an operand, a permutation aside."""
    return item.args[0] if name_of(item) == "permute" else item  # type: ignore[return-value]


def _decoding(item: fx.Node, dim: int) -> Decoding | None:
    """The decoding of one operand of a concatenation along `dim`.

    None if the operand is not what a decoder returns, if something else reads it too, or if its codes are packed along
    `dim`, where two packed tensors side by side are not the packed form of both.
    """
    decoder = _decoder(item)
    order: Any = tuple(item.args[1]) if decoder is not item else None  # type: ignore[arg-type]
    if decoder.target not in SCALE_OFFSET or len(item.users) != 1 or len(decoder.users) != 1:
        return None
    codes, scale, *settings = decoder.args
    place = dim if order is None else order[dim]
    shapes = [tuple(each.meta["val"].shape) for each in (codes, scale)]  # type: ignore[union-attr]
    how = Decoding(decoder.target, *settings, order, place, 0)  # type: ignore[arg-type, call-arg]
    if how.pack_dim == how.dim or not all(isinstance(size, int) for shape in shapes for size in shape):
        return None
    whole = how.dim != how.tile_dim and shapes[1][how.scale_dim] == 1
    return replace(how, size=shapes[0][how.dim]) if whole else how
