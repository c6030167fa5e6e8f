"""Dequantize in the backward: right before the first use, and the recompute slice cloned behind it.

A decoded value lives for `window` convolutions or matrix products of the backward; a later reader gets a fresh copy.
That trades a little arithmetic for not holding decoded activations across the backward, which would undo the saving.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ..encode.base import Stored
from ..encode.exact import Exact
from ..joint.ops import COMPUTE_BOUND, name_of
from ..plan.plan import Plan
from .node_builder import Builder

aten = torch.ops.aten


@dataclass
class Decoder:
    """Points every backward use of an approximated value at a clone made from the stored codes.

    window: how many convolutions and matrix products a clone may live for. copies: value -> (its last clone, number of
    such ops before it). originals: clone -> the value that it stands for.
    """

    plan: Plan
    stored: dict[fx.Node, Stored]
    window: int
    copies: dict[fx.Node, tuple[fx.Node, int]] = field(default_factory=dict)
    originals: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def run(self) -> None:
        """Rewrite all backward readers, in graph order."""
        joint = self.plan.joint
        readers = [node for node in joint.module.graph.nodes if node in joint.backward and node.op != "output"]
        builder = Builder.on(joint.module.graph)
        heavy = 0
        for reader in readers:
            heavy += name_of(reader) in COMPUTE_BOUND
            for value in reader.all_input_nodes:
                if value not in joint.backward and self.is_approximate(value):
                    with builder.before(reader, value) as build:
                        reader.replace_input_with(value, self.copy(value, build, heavy))

    def is_approximate(self, value: fx.Node) -> bool:
        """Whether the backward gets the value through a code, directly or by recomputation."""
        memo: dict[fx.Node, bool] = self._changed
        if value not in memo:
            plan = self.plan
            if value in plan.anchors:
                memo[value] = not isinstance(plan.anchors[value], Exact)
            else:
                memo[value] = value in plan.carried or any(map(self.is_approximate, plan.recompute.get(value, ())))
        return memo[value]

    _changed: dict[fx.Node, bool] = field(default_factory=dict)

    def copy(self, value: fx.Node, build: Builder, heavy: int) -> fx.Node:
        """The value as the backward sees it: itself if exact, else a decoded or recomputed copy."""
        if not self.is_approximate(value):
            return value
        if value in self.copies and heavy - self.copies[value][1] <= self.window:
            return self.copies[value][0]
        build = Builder(build.graph, build.mode, True, value)
        clone = self._make(value, build, heavy)
        self.copies[value] = (clone, heavy)
        self.originals[clone] = value
        return clone

    def _make(self, value: fx.Node, build: Builder, heavy: int) -> fx.Node:
        plan = self.plan
        if value in plan.anchors:
            return plan.anchors[value].dequantize(build, self.stored[value], value)
        if value in plan.carried:
            anchor = plan.carried[value]
            owner: Any = plan.anchors[anchor]
            return owner.dequantize_mask(build, self.stored[anchor], anchor)
        if value.target is aten.cat.default:
            return self._cat(value, build, heavy)
        env = {source: self.copy(source, build, heavy) for source in plan.recompute[value]}
        args = fx.map_arg(value.args, lambda node: env.get(node, node))
        kwargs = fx.map_arg(value.kwargs, lambda node: env.get(node, node))
        clone = build.call(value.target, *args, **kwargs)  # type: ignore[arg-type]
        mask = plan.relu_masks.get(value)
        return clone if mask is None else self._masked(clone, env[mask.node], mask.positive, build)

    def _cat(self, value: fx.Node, build: Builder, heavy: int) -> fx.Node:
        """The pieces of a recomputed cat in one: a cat of cats would write what it copies once more at every level.

        The pieces are decoded for it alone. Inductor makes them within it, so that a copy that other readers shared
        would be a view that keeps all of the cat.
        """
        dim = _dim_of(value)
        others, self.copies = self.copies, {}
        pieces = [self.copy(piece, build, heavy) for piece in self._pieces(value, dim)]
        self.copies = others
        return build.call(aten.cat.default, pieces, dim)

    def _pieces(self, value: fx.Node, dim: Any) -> list[fx.Node]:
        """What a cat along `dim` is made of, cats that are recomputed for it taken apart."""
        found: list[fx.Node] = []
        sources: Any = value.args[0]
        for source in sources:
            recomputed = source in self.plan.recompute and source not in self.plan.anchors
            if recomputed and source.target is aten.cat.default and _dim_of(source) == dim:
                found.extend(self._pieces(source, dim))
            else:
                found.append(source)
        return found

    def _masked(self, value: fx.Node, mask: fx.Node, positive: bool, build: Builder) -> fx.Node:
        """where(mask, max(recomputed, 0), 0): the value may be approximate, its zeros may not."""
        own = value.meta["val"]
        zero = build.call(aten.full.default, [], 0.0, dtype=own.dtype, device=own.device)
        picked = (value, zero) if positive else (zero, value)
        return build.call(aten.where.self, mask, *picked)


def _dim_of(cat: fx.Node) -> Any:
    return cat.args[1] if len(cat.args) > 1 else cat.kwargs.get("dim", 0)
