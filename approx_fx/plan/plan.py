"""Plans what is kept for the backward and how: chooses encodings, solves the minimum cut, assigns masks to codes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from ..config import Config
from ..encode.base import Encoding
from ..encode.bitmask import Bitmask
from ..encode.choose import choose
from ..encode.context import Context
from ..joint.batch_norm import BatchNorm, find_batch_norms
from ..joint.facts import find_facts
from ..joint.fake_values import is_bool, is_float, shape, tensor
from ..joint.graph import JointGraph, must_save
from ..joint.masks import Mask, find_masks
from ..joint.op_table import name_of, traits
from ..joint.value_kinds import is_normalised_exponential
from .decisions import NONE, Decisions
from .exactness import Exactness, exactness
from .min_cut import Problem, minimum_cut
from .rules import reads_at_pole, recomputable, recomputable_from_exact
from .widths import with_policies

# Prices are bits times this, so that a preference between values of the same size costs less than one bit.
SCALE = 16
# Preferred among exact values of the same size: 1/sigma, which encodings read too, and the seeds, one tensor for all.
PREFERRED_EXACT = frozenset(["rsqrt", "inductor_seeds"])


@dataclass(frozen=True)
class Plan:
    """How the backward gets each value that it demands.

    anchors: kept value -> its encoding. carried: mask -> the anchor whose code it is a bit of.
    recompute: value -> the values it is recomputed from, a ReLU's mask included. relu_masks: ReLU output -> its mask.
    free: values that the backward has or derives exactly from its inputs. batch_norms: those of the graph. context:
    what encodings were chosen by. usual: each anchor's encoding before any decision.
    """

    joint: JointGraph
    anchors: dict[fx.Node, Encoding]
    carried: dict[fx.Node, fx.Node]
    recompute: dict[fx.Node, tuple[fx.Node, ...]]
    relu_masks: dict[fx.Node, Mask]
    free: frozenset[fx.Node]
    batch_norms: list[BatchNorm]
    context: Context
    usual: dict[fx.Node, Encoding]

    def anchors_behind(self, value: fx.Node, masks: bool = True) -> list[fx.Node]:
        """The anchors that a value is, or is recomputed from, in graph order. masks: also those whose code holds a mask
        that is read on the way."""
        visited: set[fx.Node] = set()
        stack, anchors = [value], []
        while stack:
            node = stack.pop()
            if node in visited:
                continue
            visited.add(node)
            if node in self.anchors:
                anchors.append(node)
            elif node in self.carried:
                stack.extend([self.carried[node]] if masks else [])
            else:
                stack.extend(self.recompute.get(node, ()))
        return sorted(anchors, key=self.joint.order.__getitem__)

    def codes_behind(self, value: fx.Node) -> list[fx.Node]:
        """The anchors stored as codes that a value is approximate because of; masks are exact."""
        return [anchor for anchor in self.anchors_behind(value, masks=False) if self.anchors[anchor].coded]


def plan(joint: JointGraph, config: Config, decisions: Decisions = NONE) -> Plan:
    """Plan what is kept, and how. decisions: what was decided after measuring an earlier plan."""
    masks = find_masks(joint)
    batch_norms = find_batch_norms(joint, masks)
    facts = find_facts(joint)
    exact = exactness(joint, config, facts)
    context = Context.of(joint, config, facts, batch_norms, masks, exact.reasons, decisions.least_bits)
    recompute = decisions.recompute(_recompute_sources(joint, config, context, exact))
    encodings = {value: choose(value, context) for value in _candidates(joint, recompute, exact.available, masks)}
    usual = with_policies(encodings, context)
    encodings = decisions.encodings(usual, context)
    owners = {value: (mask,) for value, e in encodings.items() if (mask := e.owned_mask()) is not None}
    cut = minimum_cut(
        Problem(
            price={
                value: _price(value, encoding, value in exact.checkpointed or decisions.forbid(value, recompute))
                for value, encoding in encodings.items()
            },
            free=exact.available,
            recompute=recompute,
            owners=owners,
            demanded=tuple(sorted(joint.demands, key=joint.order.__getitem__)),
        )
    )
    anchors = {value: encodings[value] for value in sorted(cut.kept, key=joint.order.__getitem__)}
    carried: dict[fx.Node, fx.Node] = {}
    for value, encoding in anchors.items():
        mask = encoding.owned_mask()
        if mask in anchors and mask not in carried:
            carried[mask] = value  # type: ignore[index]
    for mask in carried:
        del anchors[mask]
    return Plan(
        joint,
        anchors,
        carried,
        {value: recompute[value] for value in cut.recomputed},
        context.relu_masks,
        exact.available,
        batch_norms,
        context,
        {value: usual[value] for value in anchors},
    )


def _candidates(
    joint: JointGraph, recompute: dict[fx.Node, tuple[fx.Node, ...]], free: frozenset[fx.Node], masks: list[Mask]
) -> list[fx.Node]:
    """The values that may be kept: demanded values, all values that they may be recomputed from, and masks."""
    visited: dict[fx.Node, None] = {}
    stack = list(joint.demands)
    while stack:
        value = stack.pop()
        if value not in visited and value not in free:
            visited[value] = None
            stack.extend(recompute.get(value, ()))
    visited.update((mask.node, None) for mask in masks if mask.node not in free)
    return sorted(visited, key=joint.order.__getitem__)


def _recompute_sources(
    joint: JointGraph, config: Config, context: Context, exact: Exactness
) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """Value -> the values it may be recomputed from; at most `config.stream` residual sums in a row are recomputed."""
    sources: dict[fx.Node, tuple[fx.Node, ...]] = {}
    depth: dict[fx.Node, int] = {}  # value -> residual sums that are recomputed on the way to it
    for node in joint.order:
        if node in joint.backward or node in exact.available or node.op != "call_function":
            continue
        inputs = node.all_input_nodes
        if node in exact.checkpointed:
            has_mask = node in exact.from_codes and node in context.relu_masks
            sources[node] = (*inputs, context.relu_masks[node].node) if has_mask else tuple(inputs)
            continue
        if must_save(node):
            continue
        if node in exact.recomputed_exactly or node in exact.reasons or traits(node).recompute_from_exact:
            allowed = recomputable_from_exact(node) or traits(node).seeded
            if allowed and all(map(exact.exact_in_backward, inputs)):
                sources[node] = tuple(inputs)
            continue
        sums = max((depth.get(source, 0) for source in inputs), default=0) + _is_residual_sum(node)
        if not recomputable(node) or sums > config.stream:
            continue
        approximate = [source for source in inputs if not exact.exact_in_backward(source)]
        is_steep = traits(node).steep or is_normalised_exponential(node)
        if (approximate and is_steep) or any(reads_at_pole(node, i, exact.facts) for i in approximate):
            continue
        if not (is_float(node) or _is_tuple(node)) and any(is_float(i) and i not in exact.available for i in inputs):
            continue
        if traits(node).needs_mask:
            if node not in context.relu_masks:
                continue
            inputs = [*inputs, context.relu_masks[node].node]
        sources[node] = tuple(inputs)
        depth[node] = sums
    return sources


def _is_residual_sum(node: fx.Node) -> bool:
    """Whether the node adds two activations of its own shape: a step of a residual stream."""
    if name_of(node) != "add" or len(node.all_input_nodes) != 2:
        return False
    return tensor(node) is not None and all(shape(source) == shape(node) for source in node.all_input_nodes)


def _is_tuple(node: fx.Node) -> bool:
    return tensor(node) is None and isinstance(node.meta.get("val"), (tuple, list))


def _price(value: fx.Node, encoding: Encoding, forbidden: bool) -> int:
    """The scaled bits of keeping a value. Among equal sizes, preferred encodings and PREFERRED_EXACT are cheaper.

    forbidden: the value must not be kept.
    """
    fake = tensor(value)
    if fake is None or forbidden:
        return 2**50
    bits = encoding.nbytes(fake) * 8
    mask = encoding.owned_mask()
    if mask is not None:
        bits -= _mask_bits(mask)
    preference = 0 if encoding.preferred else 2
    if not encoding.coded:
        return max(bits, 0) * SCALE + preference + (0 if name_of(value) in PREFERRED_EXACT else 1)
    return max(bits, 0) * SCALE + preference + 1


def _mask_bits(mask: fx.Node) -> int:
    fake = tensor(mask)
    assert fake is not None and is_bool(mask)
    return Bitmask().nbytes(fake) * 8
