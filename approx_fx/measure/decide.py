"""Decides, from what was measured, how to plan again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import fx

from ..encode.better import WIDEST
from ..joint.op_table import ELEMENT_PRESERVING, skip_ops, traits
from ..plan.decisions import Decisions
from ..plan.plan import Plan
from .walk import Measured


def decide(plan: Plan, measured: Sequence[Measured], before: Decisions, last: bool = False) -> Decisions:
    """The decisions `before`, and one more for each value whose error is too large.

    A code that fails is replaced by an alternative that does not. Where a value fails that is recomputed from codes
    which do not, it is stored itself; but the result of a function with bounds, whose slope is lost near its ends
    (s (1 - s) of a gate that is almost shut), is recomputed from its argument. last: whether no further plan will be
    measured, so that all values that fail have to become exact.
    """
    alternatives = dict(before.alternatives)
    not_recomputed, not_stored = set(before.not_recomputed), set(before.not_stored)
    failing = {r.value for r in measured if r.offends and not r.widen and r.value in plan.anchors}
    demanded = plan.joint.demands
    for result in measured:
        value = result.value
        if not result.offends:
            continue
        if result.widen:
            anchors = [anchor for operand in result.widen for anchor in plan.codes_behind(operand)]
            if last or all(plan.anchors[anchor].bits >= WIDEST for anchor in anchors):
                not_recomputed.update(operand.name for operand in result.widen)
                alternatives.update((operand.name, EXACT) for operand in result.widen)
            else:
                alternatives.update((anchor.name, _wider(plan, anchor)) for anchor in anchors)
            continue
        if last:
            not_recomputed.add(value.name)
            alternatives[value.name] = EXACT
            continue
        if value in plan.anchors:
            if _argument_is_better(plan, value) and value.name not in not_stored:
                not_stored.add(value.name)
            else:
                alternatives[value.name] = EXACT if result.alternative is None else result.alternative
                if value in demanded:  # a code that costs more must not be avoided by another that was not measured
                    not_recomputed.add(value.name)
        elif value in demanded:
            sources = plan.codes_behind(value)
            bounded = [anchor for anchor in sources if _argument_is_better(plan, anchor)]
            if any(source in failing for source in sources):
                continue
            if bounded and not {anchor.name for anchor in bounded} & not_stored:
                not_stored.update(anchor.name for anchor in bounded)
            else:
                not_recomputed.add(value.name)
    return replace(
        before,
        alternatives=alternatives,
        not_recomputed=frozenset(not_recomputed),
        not_stored=frozenset(not_stored),
    )


# Behind the last alternative a value is kept exact.
EXACT = 1000


def _wider(plan: Plan, anchor: fx.Node) -> int:
    """The index of the first alternative of the anchor's usual encoding that has more bits than it has now."""
    alternatives = plan.usual[anchor].alternatives(anchor, plan.context)
    bits = plan.anchors[anchor].bits
    return next((i for i, other in enumerate(alternatives) if other.bits > bits), EXACT)


def _argument_is_better(plan: Plan, anchor: fx.Node) -> bool:
    """Whether the value is a smooth function with bounds, which may be recomputed from its coded argument."""
    row = traits(skip_ops(anchor, ELEMENT_PRESERVING))
    return row.output_range is not None and bool(row.recompute) and not row.steep
