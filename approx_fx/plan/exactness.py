"""Which values the backward must read exactly, and why; and which are exact by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from ..config import Config
from ..joint.attribution import module_of
from ..joint.fake_values import is_bool, is_float, is_size
from ..joint.graph import Joint, is_random
from ..joint.module_patterns import last_match, named
from ..joint.ops import VIEWS, name_of
from ..joint.statistics import is_statistic
from ..torch_compat import aot_partitioner as aot
from .rules import SEEDED, derived_from_inputs, exact_again, of_parameters, tolerates


@dataclass(frozen=True)
class Exactness:
    """What is exact.

    free: values the backward has or derives by itself. again: exact wherever they are, kept or computed again. region:
    computed again in the backward because torch.utils.checkpoint wants it. reasons: value -> why it is not coded.
    """

    free: frozenset[fx.Node]
    again: frozenset[fx.Node]
    region: frozenset[fx.Node]
    reasons: Mapping[fx.Node, str]

    def sure(self, value: fx.Node) -> bool:
        """Whether the backward's copy of the value is exact, however it gets it."""
        known = value in self.free or value in self.again or value in self.region or value in self.reasons
        return known or is_statistic(value)


def exactness(joint: Joint, config: Config) -> Exactness:
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
            reasons[node] = "asked"
        elif not all(tolerates(reader, node) for reader in readers):
            reasons[node] = "statistic" if is_statistic(node) else "reader"
    for node in reversed(joint.order):
        if node in reasons and name_of(node) in VIEWS:  # a view is had exactly from what it is a view of
            source = node.all_input_nodes[0]
            if is_float(source) and source not in free and source not in joint.backward:
                reasons.setdefault(source, reasons[node])
    return Exactness(free, again, region, reasons)


def _in_region(joint: Joint, node: fx.Node, seeded: bool) -> bool:
    """Random numbers are drawn once, and so are the masks made of them."""

    def drawn(value: fx.Node) -> bool:
        return is_random(value) or (not seeded and name_of(value) in SEEDED)

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
