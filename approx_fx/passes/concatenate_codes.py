"""In the backward, replaces a concatenation of decoded values by one decoding of concatenated codes.

    cat([decode(q1, s1), decode(q2, s2), ...])  ->  decode(cat([q1, q2, ...]), cat([s1, s2, ...]))

In a dense block each layer reads the outputs of all layers before it, so n layers decode n^2 / 2 values, each in a loop
of its own. Codes are about an eighth of the bytes to copy. The operands of a layer are the first operands of the next,
whose backward comes before, so its concatenated codes are a slice of those of the next. A compiler then generates one
loop per layer.

If a tile spans the whole dimension of the concatenation, as all channels of some pixels do, the operands are decoded
along a dimension of their own: [B, n C, H, W] as [B, n, C, H, W].
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import fx

from ..joint.op_table import name_of
from ..ops import group
from .node_builder import Builder
from .state import Partition

aten = torch.ops.aten
# decoder -> number of leading dimensions of its scale that the value does not have
SCALE_OFFSET: dict[Any, int] = {group.dequantize_group.overload: 1, group.dequantize_relu.overload: 0}


@dataclass(frozen=True)
class Decoding:
    """How an operand that only the concatenation reads is decoded; operands with equal ones can be decoded at once.

    target, bits, tile_dim, group, pack_dim, length, dtype: the decoder and its arguments. order: the permutation of its
    result, or None. dim: the codes' dimension along which operands are concatenated. size: the length of `dim` if a
    tile spans all of it, else 0.
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
        """The dimension of the scale that corresponds to `dim`; in a scale, `tile_dim` is split in two."""
        return SCALE_OFFSET[self.target] + self.dim + (self.dim > self.tile_dim)


@dataclass(frozen=True)
class ConcatenateCodes:
    """Pass: decode neighbouring operands of a concatenation at once if they are encoded in the same way."""

    def __call__(self, partition: Partition) -> Partition:
        """Rewrite the concatenations of the backward half."""
        concatenate_codes(partition.backward)
        return partition


def concatenate_codes(backward: fx.GraphModule) -> None:
    """Rewrite the concatenations of a backward half, in place; see the module's docstring."""
    graph = backward.graph
    joiner = Joiner(Builder.on(graph, True))
    for node in graph.find_nodes(op="call_function", target=aten.cat.default):
        operands: Any = node.args[0]
        dim: Any = (node.args[1] if len(node.args) > 1 else 0) % node.meta["val"].ndim  # type: ignore[operator]
        joiner.builder.origin = node
        new_operands: list[fx.Node] = []
        for decoding, neighbours in itertools.groupby(operands, partial(_decoding, dim=dim)):
            nodes = list(neighbours)
            if decoding is None or len(nodes) == 1:
                new_operands += nodes
            else:
                with graph.inserting_before(node):
                    new_operands.append(joiner.decode(decoding, [_decoder(item) for item in nodes]))
        if len(new_operands) == 1:
            node.replace_all_uses_with(new_operands[0])
            graph.erase_node(node)
        else:
            node.args = (new_operands, dim)
    graph.eliminate_dead_code()
    graph.lint()
    backward.recompile()


@dataclass
class Joiner:
    """Concatenates codes and scales. joined: (first part, dimension) -> pairs of all parts and their concatenation."""

    builder: Builder
    joined: dict[tuple[fx.Node, int], list[tuple[tuple[fx.Node, ...], fx.Node]]] = field(default_factory=dict)

    def decode(self, how: Decoding, decoders: list[fx.Node]) -> fx.Node:
        """Decode the concatenated codes of these decoders at once. how: the decoding that they have in common."""
        call, dim, scale_dim = self.builder.call, how.dim, how.scale_dim
        codes = self.join(tuple(node.args[0] for node in decoders), dim)  # type: ignore[misc]
        scale = self.join(tuple(node.args[1] for node in decoders), scale_dim)  # type: ignore[misc]
        tile_dim, pack_dim = how.tile_dim, how.pack_dim
        if how.size:
            shape = list(codes.meta["val"].shape)
            codes = call(aten.view.default, codes, [*shape[:dim], len(decoders), how.size, *shape[dim + 1 :]])
            scale = call(aten.unsqueeze.default, scale, scale_dim + 1)
            tile_dim, pack_dim = (index + (index > dim) for index in (tile_dim, pack_dim))
        value = call(how.target, codes, scale, how.bits, tile_dim, how.group, pack_dim, how.length, how.dtype)
        if how.size:
            shape = list(value.meta["val"].shape)
            value = call(aten.reshape.default, value, [*shape[:dim], len(decoders) * how.size, *shape[dim + 2 :]])
        return value if how.order is None else call(aten.permute.default, value, list(how.order))

    def join(self, parts: tuple[fx.Node, ...], dim: int) -> fx.Node:
        """The concatenation of the parts: a slice of an earlier one that begins with them, or a new one."""
        for earlier_parts, concatenation in self.joined.get((parts[0], dim), []):
            if earlier_parts == parts:
                return concatenation
            if earlier_parts[: len(parts)] == parts:
                length = sum(part.meta["val"].shape[dim] for part in parts)
                return self.builder.call(aten.slice.Tensor, concatenation, dim, 0, length)
        concatenation = self.builder.call(aten.cat.default, list(parts), dim)
        self.joined.setdefault((parts[0], dim), []).append((parts, concatenation))
        return concatenation


def _decoder(item: fx.Node) -> fx.Node:
    """The decoder of an operand, which may be a permutation of the decoder's result."""
    return item.args[0] if name_of(item) == "permute" else item  # type: ignore[return-value]


def _decoding(item: fx.Node, dim: int) -> Decoding | None:
    """The decoding of one operand of a concatenation along `dim`.

    None if the operand is not decoded, if it has another reader, or if its codes are packed along `dim`: concatenated
    packed tensors are not the packed form of the concatenation.
    """
    decoder = _decoder(item)
    order: Any = tuple(item.args[1]) if decoder is not item else None  # type: ignore[arg-type]
    if decoder.target not in SCALE_OFFSET or len(item.users) != 1 or len(decoder.users) != 1:
        return None
    codes, scale, *settings = decoder.args
    code_dim = dim if order is None else order[dim]
    shapes = [tuple(node.meta["val"].shape) for node in (codes, scale)]  # type: ignore[union-attr]
    how = Decoding(decoder.target, *settings, order, code_dim, 0)  # type: ignore[arg-type, call-arg]
    if how.pack_dim == how.dim or not all(isinstance(size, int) for shape in shapes for size in shape):
        return None
    spans_dim = how.dim != how.tile_dim and shapes[1][how.scale_dim] == 1
    return replace(how, size=shapes[0][how.dim]) if spans_dim else how
