"""Facts about values, found in one walk over the joint graph in its order: each follows from the facts of its inputs.

    statistic       one number for many elements, which scales or shifts them all; few, and always exact
    masked fill     masked places hold a number far from all others, as scores with -1e9 or -inf
    image           a value [N, C, ...] that convolutions make or read, pointwise ops between them aside
    lower bound     a number that no element is below

A code's step spans what a tile holds: from -1e9 to 5 in 4 bits it is 6e7, and nothing is left of what is near 5. What
is computed from the value where it is not masked, an entropy of it for one, would be wrong without bound.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import fx

from .fake_values import is_bool, numel, shape, tensor
from .graph import JointGraph
from .lower_bounds import UNKNOWN
from .op_table import CASTS, ELEMENT_PRESERVING, VIEWS, traits
from .ops import name_of, skip_ops

# A sum is a statistic where each number stands for at least so many elements.
MANY = 64
# Activations stay well within it, fillings are chosen well beyond.
FILL_MAGNITUDE = 1e3
CLAMPS = frozenset(["clamp", "clamp_min", "clamp_max"])


@dataclass
class Facts:
    """What is known of the values of the forward and of either side. Built by `find_facts`, not changed afterwards."""

    statistics: set[fx.Node] = field(default_factory=set)
    masked_fills: set[fx.Node] = field(default_factory=set)
    images: set[fx.Node] = field(default_factory=set)
    lower_bounds: dict[fx.Node, float] = field(default_factory=dict)

    def at_least(self, item: Any) -> float:
        """A number that no element of a node's value is below, or a constant itself; -inf where nothing is known."""
        if isinstance(item, (int, float)):
            return float(item)
        return self.lower_bounds.get(item, UNKNOWN) if isinstance(item, fx.Node) else UNKNOWN


def find_facts(joint: JointGraph) -> Facts:
    """Annotate every value that is not downstream of an incoming gradient."""
    facts = Facts()
    for node in joint.order:
        if node in joint.backward or node.op == "output":
            continue
        bound = _lower_bound(node, facts)
        if bound > UNKNOWN:
            facts.lower_bounds[node] = bound
        if _is_statistic(node, facts):
            facts.statistics.add(node)
        if _is_masked_fill(node, facts):
            facts.masked_fills.add(node)
        if _is_image(node, facts):
            facts.images.add(node)
    return facts


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
    kind, own, inputs = traits(source).statistic, tensor(source), source.all_input_nodes
    if kind == "sum":
        whole = tensor(inputs[0])
        return whole is not None and own is not None and numel(whole) >= MANY * numel(own)
    if kind == "map":
        return own is not None and bool(inputs) and all(i in facts.statistics or _is_few(i, numel(own)) for i in inputs)
    return kind == "always"


def _is_few(node: fx.Node, count: int) -> bool:
    """A parameter, or a constant, that is broadcast over the statistics."""
    own = tensor(node)
    return (
        node.op in ("placeholder", "get_attr")
        or (own is not None and numel(own) * MANY <= count)
        or (own is not None and numel(own) == 1)
    )


def _is_masked_fill(value: fx.Node, facts: Facts) -> bool:
    """As far as that can be seen from the ops: a mask given to the model as numbers, 0 and -inf, cannot be seen."""
    name = name_of(value)
    clamped = name in CLAMPS and all(_is_fill_constant(bound) for bound in value.args[1:] if bound is not None)
    if not traits(value).keeps_fill and not clamped:
        return False
    if name == "where" and any(map(_is_fill_constant, value.args[1:3])):
        return True
    if name == "mul" and any(map(_is_fill_constant, value.args[:2])) and any(map(_is_mask, value.all_input_nodes)):
        return True
    return any(source in facts.masked_fills for source in value.all_input_nodes)


def _is_fill_constant(item: Any) -> bool:
    """A constant of that size, as a number or a node that is full of it."""
    if isinstance(item, fx.Node):
        item = skip_ops(item, VIEWS | CASTS)
        full = {"full": item.args[1:2], "full_like": item.args[1:2], "scalar_tensor": item.args[:1]}
        item = next(iter(full.get(name_of(item), ())), None)
    return isinstance(item, (int, float)) and abs(item) >= FILL_MAGNITUDE


def _is_mask(item: fx.Node) -> bool:
    """A mask as numbers, or 1 less it: what comes from a bool, or from a placeholder, by a cast and a difference."""
    if name_of(item) in ("sub", "rsub"):
        item = item.all_input_nodes[-1]
    item = skip_ops(item, VIEWS | CASTS)
    return item.op == "placeholder" or is_bool(item)


def _is_image(value: fx.Node, facts: Facts) -> bool:
    own = tensor(value)
    if own is None or own.ndim < 4:
        return False
    if any(name_of(user) == "convolution" and user.args[0] is value for user in value.users):
        return True
    maker: Any = value.args[0] if name_of(value) == "getitem" else value
    if traits(maker).image:
        return True
    source = next((i for i in maker.all_input_nodes if shape(i) == shape(own)), None)
    return maker.op == "call_function" and source in facts.images
