"""The schedule of a walk: which nodes it runs, where each copy can be made, and where each value is read last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..joint.fake_values import shape
from ..joint.graph import JointGraph, ancestors
from ..joint.op_table import ATTENTION, name_of
from ..joint.row_norms import RowNorm
from ..ops.registry import NAMESPACE
from ..plan.plan import Plan

# Namespaces of ops that other processes wait for: they are not run a second time.
COLLECTIVES = frozenset(["_c10d_functional", "_c10d_functional_autograd", "c10d", "c10d_functional", "_dtensor"])


@dataclass(frozen=True)
class Schedule:
    """What a walk does, and behind which node.

    order: the nodes to run. made: the values that are copied, in graph order. copies_at: node -> the copies that can be
    made behind it. scores_at: node -> the attentions whose query and key have copies behind it. values_until,
    copies_until: node -> the values, or copies, that are read for the last time there.
    """

    order: list[fx.Node]
    made: list[fx.Node]
    copies_at: dict[fx.Node, list[fx.Node]]
    scores_at: dict[fx.Node, list[fx.Node]]
    values_until: dict[fx.Node, list[fx.Node]]
    copies_until: dict[fx.Node, list[fx.Node]]


def schedule(plan: Plan) -> Schedule:
    """Schedule the copies of all approximate values that depend neither on another process nor on a higher-order op."""
    joint = plan.joint
    positions = early_positions(joint)
    position = positions.__getitem__
    runnable = _runnable(plan)
    ready: dict[fx.Node, fx.Node] = {}  # value -> the node behind which its copy can be made
    for value in sorted(_approximate(plan) & runnable, key=position):
        exact, sources = read_for_copy(plan, value), copied_sources(plan, value)
        if runnable.issuperset(exact) and ready.keys() >= set(sources):
            ready[value] = max([value, *exact, *(ready[source] for source in sources)], key=position)
    attentions = [node for node in positions if _reads_copies(node, ready) and node in runnable]
    operands: dict[fx.Node, Any] = {node: node.args[:2] for node in attentions}
    scores_at: dict[fx.Node, list[fx.Node]] = {}
    for node in attentions:
        place = max((ready.get(operand, operand) for operand in operands[node]), key=position)
        scores_at.setdefault(place, []).append(node)
    roots = [node for value in ready for node in (value, *read_for_copy(plan, value))]
    needed = ancestors([*roots, *(operand for pair in operands.values() for operand in pair)])
    order = [node for node in positions if node in needed]
    # reader or place -> what is read there
    value_reads: list[tuple[fx.Node, Iterable[fx.Node]]] = [(node, (node, *node.all_input_nodes)) for node in order]
    for value, place in ready.items():
        value_reads.append((place, [*([value] if is_measured(plan, value) else []), *read_for_copy(plan, value)]))
    copy_reads: list[tuple[fx.Node, Iterable[fx.Node]]] = [
        (place, (value, *copied_sources(plan, value))) for value, place in ready.items()
    ]
    for place, nodes in scores_at.items():
        read = [operand for node in nodes for operand in operands[node]]
        value_reads.append((place, read))
        copy_reads.append((place, [operand for operand in read if operand in ready]))
    places: dict[fx.Node, list[fx.Node]] = {}
    for value, place in ready.items():
        places.setdefault(place, []).append(value)
    until = [_last_reads(reads, positions) for reads in (value_reads, copy_reads)]
    return Schedule(order, list(ready), places, scores_at, *until)


def early_positions(joint: JointGraph) -> dict[fx.Node, int]:
    """Node -> its place in an order in which what only the backward reads is computed as soon as it can be.

    AOTAutograd computes that, such as the masks of ReLUs and normalised inputs, in the backward's part of the graph:
    a walk in that order would keep what it is computed from, all activations, until then.
    """
    backward = [place for node, place in joint.order.items() if node in joint.backward and node.op == "call_function"]
    first_of_backward = min(backward, default=len(joint.order))
    key: dict[fx.Node, tuple[int, int]] = {}
    for node, place in joint.order.items():
        is_late = place > first_of_backward and node.op == "call_function" and node not in joint.backward
        behind = max((key[operand] for operand in node.all_input_nodes), default=(place, place)) if is_late else None
        key[node] = (place, place) if behind is None else (behind[0], place)
    return {node: rank for rank, node in enumerate(sorted(key, key=key.__getitem__))}


def _last_reads(
    reads: Iterable[tuple[fx.Node, Iterable[fx.Node]]], order: Mapping[fx.Node, int]
) -> dict[fx.Node, list[fx.Node]]:
    """Place -> the values that are read there for the last time. reads: (place, the values that are read there)."""
    last: dict[fx.Node, fx.Node] = {}
    for place, values in reads:
        for value in values:
            last[value] = max(last.get(value, place), place, key=order.__getitem__)
    until: dict[fx.Node, list[fx.Node]] = {}
    for value, place in last.items():
        until.setdefault(place, []).append(value)
    return until


def is_measured(plan: Plan, value: fx.Node) -> bool:
    """Whether the walk compares this value with its approximate copy.

    It does so for values that are stored as codes, and for recomputed values that the backward reads; a value that is
    only on the way to another is not compared.
    """
    return value in plan.anchors or value in plan.joint.demands


def affects_others(node: fx.Node) -> bool:
    """Running the node once more would wait for another process, or run a higher-order op, which is compiled apart."""
    target: Any = node.target
    is_higher_order = isinstance(target, torch._ops.HigherOrderOperator)
    return is_higher_order or getattr(target, "namespace", "") in COLLECTIVES


def is_write(target: Any) -> bool:
    """The op changes one of its arguments. Ops of this package are none: they write to what the graph allocates."""
    is_own = getattr(target, "namespace", "") == NAMESPACE
    return not is_own and bool(getattr(getattr(target, "_schema", None), "is_mutable", False))


def _reads_copies(node: fx.Node, ready: Mapping[fx.Node, fx.Node]) -> bool:
    """The node is an attention whose query or key is approximate in the backward."""
    return name_of(node) in ATTENTION and any(source in ready for source in node.args[:2])


def _approximate(plan: Plan) -> set[fx.Node]:
    """The approximate values that the backward demands, and all that they are recomputed from."""
    stack = [value for value in plan.joint.demands if _is_approximate(plan, value)]
    approximate: set[fx.Node] = set()
    while stack:
        value = stack.pop()
        if value not in approximate:
            approximate.add(value)
            stack.extend(copied_sources(plan, value))
    return approximate


def copied_sources(plan: Plan, value: fx.Node) -> list[fx.Node]:
    """The approximate values that a recomputed value's copy reads."""
    if value in plan.anchors:
        return []
    return [source for source in plan.recompute[value] if _is_approximate(plan, source)]


def _is_approximate(plan: Plan, value: fx.Node) -> bool:
    if value in plan.anchors:
        return plan.anchors[value].coded
    return value not in plan.carried and bool(plan.codes_behind(value))


def read_for_copy(plan: Plan, value: fx.Node) -> list[fx.Node]:
    """The exact values that making and comparing a copy reads, beside the value itself."""
    norm = row_norm_of(plan, value)
    statistics = [node for node in (norm.mean, norm.rstd) if node is not None] if norm is not None else []
    if (attended := attended_by(value)) is not None:
        statistics.append(attended)
    if value in plan.anchors:
        return [*plan.anchors[value].inputs(value), *statistics]
    masks = [plan.relu_masks[value].node] if value in plan.relu_masks else []
    exact = [source for source in value.all_input_nodes if not _is_approximate(plan, source)]
    return [*exact, *masks, *statistics]


def attended_by(value: fx.Node) -> fx.Node | None:
    """The value operand of the attention that reads the value as such, or whose output it is; None without one."""
    if name_of(value) == "getitem":
        attention = value.all_input_nodes[0]
        return attention.args[2] if value.args[1] == 0 and name_of(attention) in ATTENTION else None  # type: ignore[return-value]
    return value if any(name_of(user) in ATTENTION and user.args[2] is value for user in value.users) else None


def row_norm_of(plan: Plan, value: fx.Node) -> RowNorm | None:
    """The norm over rows that reads the value in this shape; None if there is none."""
    norm = plan.context.row_norms.by_input.get(value)
    return norm if norm is not None and shape(norm.x) == shape(value) else None


def _runnable(plan: Plan) -> set[fx.Node]:
    """The nodes outside the backward that can be run once more without any effect on others."""
    runnable: set[fx.Node] = set()
    for node in plan.joint.order:
        if node in plan.joint.backward or node.op == "output" or affects_others(node) or is_write(node.target):
            continue
        if node.op == "placeholder" and node not in plan.joint.inputs:
            continue
        if runnable.issuperset(node.all_input_nodes):
            runnable.add(node)
    return runnable
