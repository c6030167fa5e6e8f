"""Decides which values the backward must read exactly, and why, and which values are exact in any case."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from ..chunk.run import chunked_rows
from ..config import Config
from ..joint.attribution import module_of
from ..joint.facts import Facts
from ..joint.fake_values import is_bool, is_float, is_size, is_whole, tensor
from ..joint.graph import JointGraph, is_random
from ..joint.module_patterns import last_match
from ..joint.module_patterns import named as is_named
from ..joint.op_table import CASTS, VIEWS, skip_ops, traits
from ..torch_compat import aot_partitioner as aot
from .checkpoint_regions import RegionsFromCodes, regions_from_codes
from .rules import recomputable_from_exact, tolerates


@dataclass(frozen=True)
class Exactness:
    """The values that are exact in the backward.

    available: values that the backward has or derives from inputs. recomputed_exactly: values that are exact whether
    they are kept or recomputed. checkpointed: values that torch.utils.checkpoint recomputes in the backward.
    from_codes: those of them whose region may be recomputed from codes of its inputs.
    reasons: value -> the key in `encode.exact.REASONS` for which it is not coded. facts: see `Facts`.
    """

    available: frozenset[fx.Node]
    recomputed_exactly: frozenset[fx.Node]
    checkpointed: frozenset[fx.Node]
    from_codes: frozenset[fx.Node]
    reasons: Mapping[fx.Node, str]
    facts: Facts

    def exact_in_backward(self, value: fx.Node) -> bool:
        """Whether the backward's copy of the value is exact, whether it is kept or recomputed."""
        if value in self.from_codes:
            return False
        exact_sets = (self.available, self.recomputed_exactly, self.checkpointed, self.reasons, self.facts.statistics)
        return any(value in nodes for nodes in exact_sets)


def exactness(joint: JointGraph, config: Config, facts: Facts) -> Exactness:
    """Find all values that are known to be exact, or have to be, before the cut is made."""
    sizes = {node for node in joint.order if is_size(node) or node.op == "get_attr"}
    available = frozenset(_derived_from_inputs(joint) | sizes)
    recomputed_exactly = frozenset(_exactly_recomputable(joint, available))
    checkpointed = frozenset(node for node in joint.order if _is_checkpointed(joint, node) and node not in available)
    regions = RegionsFromCodes()
    if config.checkpoint_inputs == "coded":
        named = {node for node in checkpointed if _is_user_exact(config, node, [])}
        regions = regions_from_codes(joint, facts, checkpointed, available | recomputed_exactly, named)
        checkpointed -= regions.masks
    weights = _of_parameters(joint)
    reasons: dict[fx.Node, str] = {}
    for node in joint.order:
        if node in joint.backward or node in available or not is_float(node):
            continue
        readers = joint.demands.get(node, [])
        if node in recomputed_exactly:
            reasons[node] = "parameter" if node in weights else "decision"
        elif node in checkpointed or (node not in regions.inputs and any(user in checkpointed for user in node.users)):
            reasons[node] = "checkpoint"
        elif _is_computed_in_chunks(node):
            reasons[node] = "gradient"
        elif _is_user_exact(config, node, readers):
            reasons[node] = "user"
        elif not all(tolerates(reader, node, facts) for reader in readers):
            reasons[node] = "statistic" if node in facts.statistics else "reader"
    for node in reversed(joint.order):
        # An exact view needs its source to be exact.
        if node in reasons and node not in regions.values and traits(node).view:
            source = node.all_input_nodes[0]
            if is_float(source) and source not in available and source not in joint.backward:
                reasons.setdefault(source, reasons[node])
    return Exactness(available, recomputed_exactly, checkpointed, regions.values, reasons, facts)


def _is_computed_in_chunks(node: fx.Node) -> bool:
    """Return True for an output of `chunked_rows`, which is a loss or a gradient, and for a view or a cast of one."""
    source = skip_ops(node, VIEWS | CASTS)
    return source.target is operator.getitem and source.args[0].target is chunked_rows  # type: ignore[union-attr]


def _derived_from_inputs(joint: JointGraph) -> set[fx.Node]:
    """Nodes that can be recomputed exactly from inputs that are alive anyway: transposed weights, casts, constants."""
    derived: set[fx.Node] = set(joint.inputs - joint.mutated - joint.activations)
    for node in joint.module.graph.nodes:
        allowed = node not in joint.backward and recomputable_from_exact(node)
        if node.op == "get_attr" or (allowed and all(source in derived for source in node.all_input_nodes)):
            derived.add(node)
    return derived


def _of_parameters(joint: JointGraph) -> set[fx.Node]:
    """Nodes computed from parameters and buffers alone, by any op: gathered, normalised, decomposed weights."""
    derived = set(joint.parameters)
    for node in joint.order:
        inputs = node.all_input_nodes
        if node not in joint.backward and node.op == "call_function" and inputs and all(i in derived for i in inputs):
            derived.add(node)
    return derived - joint.parameters


def _exactly_recomputable(joint: JointGraph, available: frozenset[fx.Node]) -> set[fx.Node]:
    """Nodes that are exact whether they are kept or recomputed: integers, and values recomputable from them alone.

    Also values computed from parameters alone, because the error of a weight would be the same for every sample.
    available: values that the backward has in any case; they are not in the result.
    """
    exact: set[fx.Node] = _of_parameters(joint) - available
    for node in joint.order:
        if node in joint.backward or node in available or node.op != "call_function":
            continue
        value, inputs = tensor(node), node.all_input_nodes
        allowed = recomputable_from_exact(node) or traits(node).seeded
        if (value is not None and is_whole(value.dtype)) or (
            allowed and inputs and all(source in available or source in exact for source in inputs)
        ):
            exact.add(node)
    return exact


def _is_checkpointed(joint: JointGraph, node: fx.Node) -> bool:
    """Whether torch.utils.checkpoint recomputes the node.

    Random numbers are kept instead, unless they are drawn from a seed, and so are masks of them and the results of an
    attention with dropout.
    """
    if node.op != "call_function" or node in joint.backward or not aot.must_recompute(node):
        return False
    is_kept_with_source = is_bool(node) or node.target is operator.getitem
    return not is_random(node) and not (is_kept_with_source and any(map(is_random, node.all_input_nodes)))


def _is_user_exact(config: Config, node: fx.Node, readers: list[fx.Node]) -> bool:
    """Whether options name the module that computes the value, or one whose backward reads it, as exact."""
    if not config.exact and not config.patterns:
        return False
    path = module_of(node)
    if isinstance(config.bits, Mapping) and last_match(config.bits, path, 4) is None:
        return True
    return any(is_named(config.exact, module) for module in (path, *map(module_of, readers)))
