"""Says what was measured: a row for each value, and a sentence for what was too far off and what was done about it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from ..joint.attribution import layer_pattern, module_of
from ..joint.op_table import label_of
from ..plan.plan import Plan
from ..report.data import MeasuredValue
from .gradients import Gradient, Gradients
from .walk import FACTOR, Measured, promised


def rows(
    measured: Sequence[Measured], failures: Mapping[str, Measured], before: Plan, after: Plan
) -> list[MeasuredValue]:
    """One row for each value. measured: by the last plan, `after`; failures: of earlier plans, by name."""
    last = {result.value.name: result for result in measured}
    nodes = {node.name: node for node in after.joint.order}
    names = dict.fromkeys([*failures, *last])
    values = []
    for name in sorted(names, key=lambda name: after.joint.order[nodes[name]]):
        node, result, failure = nodes[name], last.get(name), failures.get(name)
        encoding = after.anchors.get(node)
        sources = [] if encoding is not None else after.codes_behind(node)
        if encoding is not None:
            kind, bits = (encoding.name, encoding.bits) if encoding.coded else ("exact", 0)
        else:
            kind, bits = "recomputed", min((after.anchors[source].bits for source in sources), default=0)
        coded = [node] if encoding is not None and encoding.coded else sources
        expected = max((promised(after, source) for source in coded), default=0.0)
        if failure is not None:
            expected = expected or failure.allowed / FACTOR
        error = result.error if result is not None else 0.0 if kind == "exact" else None
        is_read = result is not None or kind == "exact"
        action = _action(name, kind, bits, before, is_read) if failure is not None else ""
        old = failure.error if failure is not None else None
        values.append(MeasuredValue(name, module_of(node), label_of(node), kind, bits, expected, error, old, action))
    return values


def _action(name: str, kind: str, bits: int, before: Plan, is_read: bool) -> str:
    """What was done about a value that failed."""
    if kind == "exact":
        return "kept exact"
    if kind != "recomputed":
        return f"stored as a {kind} code of {bits} bits"
    if not is_read:
        return "no longer read"
    was_stored = any(value.name == name for value in before.anchors)
    return "recomputed from another code" if was_stored else "recomputed from better codes"


def sentences(values: Sequence[MeasuredValue]) -> Iterator[str]:
    """One sentence for each code that failed, those of identical layers in one."""
    groups: dict[tuple[str, str, str], list[MeasuredValue]] = {}
    for value in values:
        if value.action and value.action != "recomputed from better codes":
            groups.setdefault((layer_pattern(value.module), value.op, value.action), []).append(value)
    for (_, op, action), group in groups.items():
        worst = max(group, key=lambda value: value.before or 0.0)
        error = f"{worst.before:.2f}" if math.isfinite(worst.before or 0.0) else "infinite"
        others = f" (and {len(group) - 1} like it)" if len(group) > 1 else ""
        yield (
            f"approx_fx: on this step's data the code of {op} in {worst.module or 'the model'}{others} has an error of "
            f"{error} relative to the value, where {worst.promised:.2f} is usual: it is {action}."
        )


def sentence_of_gradients(gradients: Gradients) -> str:
    """Says how far a graph's gradients are off."""
    worst = gradients.worst(large=True)
    of_one = (
        f", and that of a parameter of {worst.module} one of {worst.cosine:.2f}{_size_of(worst)}"
        if worst is not None
        else ""
    )
    return (
        f"with codes, its gradient has a cosine of {gradients.whole:.2f} with the exact one on this step's data{of_one}"
    )


def sentence_of_small_gradients(gradients: Sequence[Gradient]) -> str:
    """Names the worst of the parameters whose gradients are off, but small beside those of others."""
    worst = min(gradients, key=lambda gradient: gradient.agreement)
    of_several = f" (one of {len(gradients)} that are off)" if len(gradients) > 1 else ""
    return (
        f"approx_fx: on this step's data the gradient of a parameter of {worst.module}, {worst.share:.0e} times "
        f"as large as the largest, has a cosine of {worst.cosine:.2f} with the exact one{_size_of(worst)}{of_several}"
    )


def _size_of(gradient: Gradient) -> str:
    """Says how many times too large or too small a gradient is, where it is by much."""
    return f" and {gradient.size:.2g} times its size" if gradient.is_off_in_size else ""
