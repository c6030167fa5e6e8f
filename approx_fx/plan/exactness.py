"""Which values the backward must read exactly, and why; and which are exact by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from ..config import Config
from ..joint.attribution import module_of
from ..joint.facts import Facts
from ..joint.fake_values import is_bool, is_float, is_size
from ..joint.graph import JointGraph, is_random
from ..joint.module_patterns import last_match, named
from ..joint.op_table import traits
from ..torch_compat import aot_partitioner as aot
from .rules import derived_from_inputs, exact_again, of_parameters, tolerates


@dataclass(frozen=True)
class Exactness:
    """What is exact.

    available: values the backward has or derives by itself. again: exact wherever they are, kept or computed again.
    region: computed again in the backward because torch.utils.checkpoint wants it. reasons: value -> why it is not
    coded. facts: what is known of the values.
    """

    available: frozenset[fx.Node]
    again: frozenset[fx.Node]
    region: frozenset[fx.Node]
    reasons: Mapping[fx.Node, str]
    facts: Facts

    def exact_in_backward(self, value: fx.Node) -> bool:
        """Whether the backward's copy of the value is exact, however it gets it."""
        return any(value in nodes for nodes in (self.available, self.again, self.region, self.reasons)) or (
            value in self.facts.statistics
        )


def exactness(joint: JointGraph, config: Config, facts: Facts) -> Exactness:
    """Everything that is known to be exact, or has to be, before the cut is made."""
    sizes = {node for node in joint.order if is_size(node) or node.op == "get_attr"}
    free = frozenset(derived_from_inputs(joint) | sizes)
    seeded = config.compiler == "inductor"
    again = frozenset(exact_again(joint, free, seeded))
    region = frozenset(node for node in joint.order if _in_region(joint, node, seeded) and node not in free)
    weights = of_parameters(joint)
    reasons: dict[fx.Node, str] = {}
    for node in joint.order:
        if node in joint.backward or node in free or not is_float(node):
            continue
        readers = joint.demands.get(node, [])
        if node in again:
            reasons[node] = "parameter" if node in weights else "decision"
        elif node in region or any(user in region for user in node.users):
            reasons[node] = "checkpoint"
        elif _is_user_exact(config, node, readers):
            reasons[node] = "user"
        elif not all(tolerates(reader, node, facts) for reader in readers):
            reasons[node] = "statistic" if node in facts.statistics else "reader"
    for node in reversed(joint.order):
        if node in reasons and traits(node).view:  # a view is had exactly from what it is a view of
            source = node.all_input_nodes[0]
            if is_float(source) and source not in free and source not in joint.backward:
                reasons.setdefault(source, reasons[node])
    return Exactness(free, again, region, reasons, facts)


def _in_region(joint: JointGraph, node: fx.Node, seeded: bool) -> bool:
    """Random numbers are drawn once, and so are the masks made of them."""

    def drawn(value: fx.Node) -> bool:
        return is_random(value) or (not seeded and traits(value).seeded)

    if node.op != "call_function" or node in joint.backward or not aot.must_recompute(node):
        return False
    return not drawn(node) and not (is_bool(node) and any(map(drawn, node.all_input_nodes)))


def _is_user_exact(config: Config, node: fx.Node, readers: list[fx.Node]) -> bool:
    """Whether the module that makes the value, or one whose backward reads it, is to be exact."""
    if not config.exact and not config.patterns:
        return False
    own = module_of(node)
    if isinstance(config.bits, Mapping) and last_match(config.bits, own, 4) is None:
        return True
    return any(named(config.exact, path) for path in (own, *map(module_of, readers)))
