"""Inserts the decoding of anchors before their readers in the backward, and clones of what is recomputed from them.

A decoded value lives for `window` convolutions or matrix products of the backward; a later reader gets a fresh copy.
That trades a little arithmetic for not holding decoded activations across the backward, which would undo the saving.
What a checkpointed region computes again by a convolution, a matrix product or an attention lives for all its readers.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from ..encode.base import Stored
from ..joint.op_table import traits
from ..plan.plan import Plan
from .node_builder import Builder
from .state import Partition

aten = torch.ops.aten
# value -> its last copy, and the number of convolutions and matrix products of the backward before it
LastCopies = dict[fx.Node, tuple[fx.Node, int]]


@dataclass(frozen=True)
class InsertDequantize:
    """Pass: every backward reader of an approximate value reads a copy that is decoded or recomputed from codes.

    window: how many convolutions and matrix products of the backward a copy may live for.
    """

    window: int = 2

    def __call__(self, partition: Partition) -> Partition:
        """Rewrite all backward readers, in graph order."""
        joint = partition.plan.joint
        copier = _Copier(partition.plan, partition.stored, self.window)
        readers = [node for node in joint.module.graph.nodes if node in joint.backward and node.op != "output"]
        builder = Builder.on(joint.module.graph)
        last: LastCopies = {}
        heavy = 0
        for reader in readers:
            heavy += traits(reader).compute_bound
            for value in reader.all_input_nodes:
                if value not in joint.backward and copier.is_approximate(value):
                    with builder.before(reader, value) as build:
                        reader.replace_input_with(value, copier.copy(value, build, heavy, last))
        return replace(partition, copies=copier.originals)


@dataclass
class _Copier:
    """Adds nodes that decode or recompute values from what is stored.

    approximate: the cache of `is_approximate`. originals: copy -> the value that it stands for.
    """

    plan: Plan
    stored: dict[fx.Node, Stored]
    window: int
    approximate: dict[fx.Node, bool] = field(default_factory=dict)
    originals: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def is_approximate(self, value: fx.Node) -> bool:
        """Whether the backward decodes the value, or recomputes it from one that it decodes."""
        if value not in self.approximate:
            plan = self.plan
            if value in plan.anchors:
                self.approximate[value] = plan.anchors[value].coded
            else:
                sources = plan.recompute.get(value, ())
                self.approximate[value] = value in plan.carried or any(map(self.is_approximate, sources))
        return self.approximate[value]

    def copy(self, value: fx.Node, build: Builder, heavy: int, last: LastCopies) -> fx.Node:
        """The value itself if it is exact, else a decoded or recomputed copy.

        heavy: convolutions and matrix products of the backward before the reader. last: updated in place.
        """
        if not self.is_approximate(value):
            return value
        if value in last and (heavy - last[value][1] <= self.window or self._is_costly(value)):
            return last[value][0]
        build = Builder(build.graph, build.mode, True, value)
        copy = self._make(value, build, heavy, last)
        last[value] = (copy, heavy)
        self.originals[copy] = value
        return copy

    def _is_costly(self, value: fx.Node) -> bool:
        """Return True if a copy is a result of a compute-bound op that is run again."""
        source = value.args[0] if value.target is operator.getitem else value
        return isinstance(source, fx.Node) and value in self.plan.recompute and traits(source).compute_bound

    def _make(self, value: fx.Node, build: Builder, heavy: int, last: LastCopies) -> fx.Node:
        """A new copy of an approximate value."""
        plan = self.plan
        if value in plan.anchors:
            return plan.anchors[value].decode(build, self.stored[value], value)
        if value in plan.carried:
            anchor = plan.carried[value]
            return plan.anchors[anchor].decode_mask(build, self.stored[anchor], anchor)
        if value.target is aten.cat.default:
            return self._cat(value, build, heavy)
        env = {source: self.copy(source, build, heavy, last) for source in plan.recompute[value]}
        args = fx.map_arg(value.args, lambda node: env.get(node, node))
        kwargs = fx.map_arg(value.kwargs, lambda node: env.get(node, node))
        copy = build.call(value.target, *args, **kwargs)  # type: ignore[arg-type]
        mask = plan.relu_masks.get(value)
        return copy if mask is None else _masked(copy, env[mask.node], mask.positive, build)

    def _cat(self, value: fx.Node, build: Builder, heavy: int) -> fx.Node:
        """A recomputed cat, flattened: nested cats would each write their operands once more.

        Its pieces are decoded for it alone. Inductor writes them into the cat's buffer, so a piece shared with other
        readers would be a view that keeps the whole buffer alive.
        """
        dim = _dim_of(value)
        last: LastCopies = {}
        pieces = [self.copy(piece, build, heavy, last) for piece in self._pieces(value, dim)]
        return build.call(aten.cat.default, pieces, dim)

    def _pieces(self, value: fx.Node, dim: Any) -> list[fx.Node]:
        """The operands of a cat along `dim`, those that are recomputed cats along `dim` replaced by their operands."""
        pieces: list[fx.Node] = []
        sources: Any = value.args[0]
        for source in sources:
            recomputed = source in self.plan.recompute and source not in self.plan.anchors
            if recomputed and source.target is aten.cat.default and _dim_of(source) == dim:
                pieces.extend(self._pieces(source, dim))
            else:
                pieces.append(source)
        return pieces


def _masked(value: fx.Node, mask: fx.Node, positive: bool, build: Builder) -> fx.Node:
    """A recomputed ReLU output with exact zeros, where(mask, value, 0). positive: the mask is True above 0."""
    fake = value.meta["val"]
    zero = build.call(aten.full.default, [], 0.0, dtype=fake.dtype, device=fake.device)
    operands = (value, zero) if positive else (zero, value)
    return build.call(aten.where.self, mask, *operands)


def _dim_of(cat: fx.Node) -> Any:
    return cat.args[1] if len(cat.args) > 1 else cat.kwargs.get("dim", 0)
