"""Finds the regions of torch.utils.checkpoint that may be recomputed from codes of their inputs.

The recomputation runs the whole region at a point that is close to the exact one, x' instead of x, so that statistics,
softmaxes and log-sum-exps are those of x' and belong together: the gradient is that of the region at x'. It is close
to the exact gradient where the region is continuous and x' is not taken across a pole. Masks are kept, so that they are
those of x. A region that decides otherwise (an argmax, a rounding) is recomputed from exact values, as are all regions
without the option.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from ..joint.facts import Facts
from ..joint.fake_values import is_bool, is_float, is_whole
from ..joint.graph import JointGraph
from ..joint.op_table import ATTENTION, UNKNOWN, VIEWS, name_of, skip_ops, traits
from .rules import reads_at_pole


@dataclass(frozen=True)
class RegionsFromCodes:
    """Regions that may be recomputed from codes. inputs: the values that may be coded for them; values: what is then
    recomputed from codes; masks: bool values of the regions that are kept instead."""

    inputs: frozenset[fx.Node] = frozenset()
    values: frozenset[fx.Node] = frozenset()
    masks: frozenset[fx.Node] = frozenset()


def regions_from_codes(
    joint: JointGraph,
    facts: Facts,
    checkpointed: Collection[fx.Node],
    exact: Collection[fx.Node],
    named: Collection[fx.Node],
) -> RegionsFromCodes:
    """Find the regions that may be recomputed from codes of some of their inputs.

    checkpointed: the values that regions recompute. exact: values that are exact in any case. named: those of modules
    that the user wants exact.
    """
    candidates = [node for node in joint.order if node not in joint.backward and is_float(node)]
    regions = {
        node: _recomputed_from(node, checkpointed)
        for node in candidates
        if node not in checkpointed and node not in exact and any(user in checkpointed for user in node.users)
    }
    inputs = {
        node
        for node, region in regions.items()
        if region.isdisjoint(named) and all(_is_continuous(value, facts) for value in region)
    }
    reached = {value for node in inputs for value in regions[node]}
    masks = frozenset(filter(is_bool, reached))
    return RegionsFromCodes(frozenset(inputs), frozenset(reached - masks), masks)


def _recomputed_from(start: fx.Node, checkpointed: Collection[fx.Node]) -> set[fx.Node]:
    """The checkpointed values that are computed from a value."""
    region: set[fx.Node] = set()
    stack = [start]
    while stack:
        for user in stack.pop().users:
            if user in checkpointed and user not in region:
                region.add(user)
                stack.append(user)
    return region


def _is_continuous(node: fx.Node, facts: Facts) -> bool:
    """Return True for a mask, and if a small error in what the node reads is known to be a small one in its results."""
    if is_bool(node):
        return True
    row = traits(node)
    if row == UNKNOWN or row.decides or row.steep or _has_indices(node):
        return False
    return not any(
        reads_at_pole(node, source, facts) and skip_ops(source, VIEWS) not in facts.statistics
        for source in node.all_input_nodes
    )


def _has_indices(node: fx.Node) -> bool:
    """Return True for an op with whole numbers among its results, but for an attention, whose are seeds."""
    values = [value for value in tree_leaves(node.meta.get("val")) if isinstance(value, torch.Tensor)]
    return name_of(node) not in ATTENTION and any(is_whole(value.dtype) for value in values)
