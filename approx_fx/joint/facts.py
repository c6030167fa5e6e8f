"""Facts about values, found in one walk over the joint graph: the facts of a value follow from those of its inputs.

    statistic       a mean, a deviation, a maximum: one number by which many elements are normalised; always exact
    from inputs     a value computed from the caller's inputs and constants alone, which the backward can recompute
    masked fill     a value whose masked places hold a number far from all others, as attention scores with -1e9 or -inf
    overwritten     a value in memory that is written to before the backward runs: an input, or a view of one
    image           a value [N, C, ...] that a convolution or pooling returns or reads, also through pointwise ops
    lower bound     a number that no element is below

A masked fill is not coded: the step of a code spans the tile's range, which from -1e9 to 5 in 4 bits is 6e7, and the
elements near 5 would be lost. Whatever is computed from the unmasked places, such as an entropy, would have an
unbounded error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import fx

from .fake_values import is_bool, numel, shape, tensor
from .graph import JointGraph
from .lower_bounds import UNKNOWN
from .op_table import CASTS, ELEMENT_PRESERVING, VIEWS, name_of, skip_ops, traits

# A sum is a statistic if each of its numbers is the sum of at least so many elements.
MIN_SUMMANDS = 64
# Activations stay well below it; fill values are chosen well above.
FILL_MAGNITUDE = 1e3
SOFTMAX_STARTS = frozenset(["amax", "logsumexp", "_softmax", "_log_softmax", "prepare_softmax_online"])
CLAMPS = frozenset(["clamp", "clamp_min", "clamp_max"])


@dataclass
class Facts:
    """Facts about the values outside the backward, by node. Built by `find_facts`, not changed afterwards."""

    statistics: set[fx.Node] = field(default_factory=set)
    from_inputs: set[fx.Node] = field(default_factory=set)
    masked_fills: set[fx.Node] = field(default_factory=set)
    overwritten: set[fx.Node] = field(default_factory=set)
    images: set[fx.Node] = field(default_factory=set)
    lower_bounds: dict[fx.Node, float] = field(default_factory=dict)

    def at_least(self, item: Any) -> float:
        """A number that no element of a node's value is below; a constant's own value; -inf where nothing is known."""
        if isinstance(item, (int, float)):
            return float(item)
        return self.lower_bounds.get(item, UNKNOWN) if isinstance(item, fx.Node) else UNKNOWN


def find_facts(joint: JointGraph) -> Facts:
    """Find the facts of every value that does not depend on an incoming gradient."""
    facts = Facts()
    for node in joint.order:
        if node in joint.backward or node.op == "output":
            continue
        bound = _lower_bound(node, facts)
        if bound > UNKNOWN:
            facts.lower_bounds[node] = bound
        if _is_statistic(node, facts):
            facts.statistics.add(node)
        if _is_from_inputs(node, joint, facts):
            facts.from_inputs.add(node)
        if _is_masked_fill(node, facts):
            facts.masked_fills.add(node)
        if node in joint.mutated or (_shares_memory(node) and node.all_input_nodes[0] in facts.overwritten):
            facts.overwritten.add(node)
        if _is_image(node, facts):
            facts.images.add(node)
    return facts


def _shares_memory(node: fx.Node) -> bool:
    """The op returns memory of its first argument: it is a view, or takes one of the views that a split returned."""
    return bool(traits(node).view) or name_of(node) == "getitem"


def _lower_bound(node: fx.Node, facts: Facts) -> float:
    rule = traits(node).lower_bound
    if rule is None or not node.args or tensor(node) is None:
        return UNKNOWN
    return rule(node, facts.at_least)


def _is_statistic(value: fx.Node, facts: Facts) -> bool:
    """Whether the value is a reduction's result, attention's log-sum-exp, or computed from such numbers alone."""
    source = skip_ops(value, VIEWS | ELEMENT_PRESERVING)
    if source is not value:
        return source in facts.statistics
    if name_of(source) == "getitem" and isinstance(source.args[0], fx.Node):
        if "attention" in name_of(source.args[0]):
            return bool(source.args[1] != 0)
        source = source.args[0]
    kind, result, inputs = traits(source).statistic, tensor(source), source.all_input_nodes
    if kind == "sum":
        summed = tensor(inputs[0])
        return summed is not None and result is not None and numel(summed) >= MIN_SUMMANDS * numel(result)
    if kind == "map":
        if result is None or not inputs:
            return False
        return all(i in facts.statistics or _is_parameter_or_small(i, numel(result)) for i in inputs)
    return kind == "always"


def _is_parameter_or_small(node: fx.Node, count: int) -> bool:
    """Whether the node is an input, or far smaller than `count` elements, over which it is then broadcast."""
    value = tensor(node)
    return (
        node.op in ("placeholder", "get_attr")
        or (value is not None and numel(value) * MIN_SUMMANDS <= count)
        or (value is not None and numel(value) == 1)
    )


def _is_from_inputs(node: fx.Node, joint: JointGraph, facts: Facts) -> bool:
    if node.op == "placeholder":
        return node in joint.inputs and node not in joint.parameters and node not in joint.mutated
    row = traits(node)
    is_cheap = bool(row.recompute) or row.recompute_from_exact
    return node.op == "call_function" and is_cheap and all(i in facts.from_inputs for i in node.all_input_nodes)


def _is_masked_sum(value: fx.Node, facts: Facts) -> bool:
    """The value adds a tensor made of the caller's inputs, possibly a mask of 0 and -inf, to what a softmax reads."""
    if name_of(value) not in ("add", "sub") or value in facts.from_inputs:
        return False
    return any(source in facts.from_inputs for source in value.all_input_nodes) and _feeds_softmax(value, 6)


def _feeds_softmax(value: fx.Node, distance: int) -> bool:
    """A softmax begins within `distance` pointwise ops or views behind the value: its maximum is taken there."""
    return any(
        name_of(user) in SOFTMAX_STARTS
        or (distance > 0 and traits(user).keeps_fill and _feeds_softmax(user, distance - 1))
        for user in value.users
    )


def _is_masked_fill(value: fx.Node, facts: Facts) -> bool:
    """The ops show that the value is a masked fill; or it may be one, because a mask that is an input is added."""
    name = name_of(value)
    if _is_masked_sum(value, facts):
        return True
    clamped = name in CLAMPS and all(_is_fill_constant(bound) for bound in value.args[1:] if bound is not None)
    if not traits(value).keeps_fill and not clamped:
        return False
    if name == "where" and any(map(_is_fill_constant, value.args[1:3])):
        return True
    if name == "mul" and any(map(_is_fill_constant, value.args[:2])) and any(map(_is_mask, value.all_input_nodes)):
        return True
    return any(source in facts.masked_fills for source in value.all_input_nodes)


def _is_fill_constant(item: Any) -> bool:
    """Whether the item is a constant of at least FILL_MAGNITUDE, as a number or a node that is filled with it."""
    if isinstance(item, fx.Node):
        item = skip_ops(item, VIEWS | CASTS)
        full = {"full": item.args[1:2], "full_like": item.args[1:2], "scalar_tensor": item.args[:1]}
        item = next(iter(full.get(name_of(item), ())), None)
    return isinstance(item, (int, float)) and abs(item) >= FILL_MAGNITUDE


def _is_mask(item: fx.Node) -> bool:
    """Whether the node is a mask as numbers, or 1 - mask: computed from a bool or a graph input by casts and views."""
    if name_of(item) in ("sub", "rsub"):
        item = item.all_input_nodes[-1]
    item = skip_ops(item, VIEWS | CASTS)
    return item.op == "placeholder" or is_bool(item)


def _is_image(value: fx.Node, facts: Facts) -> bool:
    fake = tensor(value)
    if fake is None or fake.ndim < 4:
        return False
    if any(name_of(user) == "convolution" and user.args[0] is value for user in value.users):
        return True
    producer: Any = value.args[0] if name_of(value) == "getitem" else value
    if traits(producer).image:
        return True
    source = next((i for i in producer.all_input_nodes if shape(i) == shape(fake)), None)
    return producer.op == "call_function" and source in facts.images
