"""From the joint graph to what is kept and how: builds the cut's problem, solves it, reads the masks' places off it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from ..config import Config
from ..encode.base import Quantizer
from ..encode.bitmask import Bitmask
from ..encode.choose import Context, choose, context, owned_mask
from ..encode.exact import Exact
from ..errors import PassFailed
from ..joint.batch_norm import BatchNorm, find_batch_norms
from ..joint.fake_values import is_bool, is_float, tensor
from ..joint.graph import Joint, must_save
from ..joint.masks import Mask, find_masks
from ..joint.ops import name_of
from .exactness import Exactness, exactness
from .min_cut import Problem, minimum_cut
from .rules import EXACT_INPUTS_ONLY, SEEDED, is_residual_sum, recomputable, singular

# Prices are bits times this, which leaves room below one bit for a preference between equals.
SCALE = 16
# Of exact values that cost the same: 1/sigma, which quantizers read too, and the seeds, one tensor for all.
SOURCES = frozenset(["rsqrt", "inductor_seeds"])


@dataclass(frozen=True)
class Plan:
    """What the backward gets.

    anchors: kept value -> its quantizer. carried: mask -> the anchor whose code it is a bit of.
    recompute: value -> what it is computed again from, a ReLU's mask included. relu_masks: ReLU output -> its mask.
    free: values the backward has or derives exactly by itself.
    """

    joint: Joint
    anchors: dict[fx.Node, Quantizer]
    carried: dict[fx.Node, fx.Node]
    recompute: dict[fx.Node, tuple[fx.Node, ...]]
    relu_masks: dict[fx.Node, Mask]
    free: frozenset[fx.Node]
    chains: list[BatchNorm]


def plan(joint: Joint, config: Config) -> Plan:
    """Decide what is kept, and how. Raises PassFailed for a graph that the pass cannot handle."""
    for node in joint.demands:
        if node in joint.mutated:
            raise PassFailed(f"the backward reads the old value of {node}, which the forward overwrites")
    masks = find_masks(joint)
    chains = find_batch_norms(joint, masks)
    exact = exactness(joint, config)
    at = context(joint, config, chains, masks, exact.reasons)
    recompute = _recompute(joint, config, at, exact)
    quantizers = {value: choose(value, at) for value in _candidates(joint, recompute, exact.free)}
    owners = {value: (mask,) for value, q in quantizers.items() if (mask := owned_mask(q)) is not None}
    quantizers.update({mask: choose(mask, at) for (mask,) in owners.values() if mask not in quantizers})
    cut = minimum_cut(
        Problem(
            price={value: _price(value, quantizer, value in exact.region) for value, quantizer in quantizers.items()},
            free=exact.free,
            recompute=recompute,
            owners=owners,
            demanded=tuple(sorted(joint.demands, key=joint.order.__getitem__)),
        )
    )
    anchors = {value: quantizers[value] for value in sorted(cut.kept, key=joint.order.__getitem__)}
    carried: dict[fx.Node, fx.Node] = {}
    for value, quantizer in anchors.items():
        mask = owned_mask(quantizer)
        if mask in anchors and mask not in carried:
            carried[mask] = value  # type: ignore[index]
    for mask in carried:
        del anchors[mask]
    return Plan(
        joint,
        anchors,
        carried,
        {value: recompute[value] for value in cut.recomputed},
        at.masks,
        exact.free,
        chains,
    )


def _candidates(joint: Joint, recompute: dict[fx.Node, tuple[fx.Node, ...]], free: frozenset[fx.Node]) -> list[fx.Node]:
    """Demanded values and everything they might be recomputed from."""
    seen: dict[fx.Node, None] = {}
    stack = list(joint.demands)
    while stack:
        value = stack.pop()
        if value not in seen and value not in free:
            seen[value] = None
            stack.extend(recompute.get(value, ()))
    return sorted(seen, key=joint.order.__getitem__)


def _recompute(joint: Joint, config: Config, at: Context, exact: Exactness) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """Value -> what it may be recomputed from. A residual stream is anchored anew every `config.stream` sums."""
    found: dict[fx.Node, tuple[fx.Node, ...]] = {}
    depth: dict[fx.Node, int] = {}
    for node in joint.order:
        if node in joint.backward or node in exact.free or node.op != "call_function":
            continue
        inputs = node.all_input_nodes
        if node in exact.region:
            found[node] = tuple(inputs)
            continue
        if must_save(node):
            continue
        if node in exact.again or node in exact.reasons or name_of(node) in EXACT_INPUTS_ONLY:
            if (recomputable(node) or name_of(node) in EXACT_INPUTS_ONLY | SEEDED) and all(map(exact.sure, inputs)):
                found[node] = tuple(inputs)
            continue
        along = max((depth.get(source, 0) for source in inputs), default=0) + is_residual_sum(node)
        if not recomputable(node) or along > config.stream:
            continue
        if any(not exact.sure(source) and singular(node, source) for source in inputs):
            continue
        if not (is_float(node) or _is_tuple(node)) and any(is_float(i) and i not in exact.free for i in inputs):
            continue
        if name_of(node) == "relu":
            if node not in at.masks:
                continue
            inputs = [*inputs, at.masks[node].node]
        found[node] = tuple(inputs)
        depth[node] = along
    return found


def _is_tuple(node: fx.Node) -> bool:
    return tensor(node) is None and isinstance(node.meta.get("val"), (tuple, list))


def _price(value: fx.Node, quantizer: Quantizer, never: bool) -> int:
    """Scaled bits. Of two that cost the same, a code before the exact value, and SOURCES before what is made of them.

    never: the value is not to be kept.
    """
    own = tensor(value)
    if own is None or never:
        return 2**50
    bits = quantizer.nbytes(own) * 8
    mask = owned_mask(quantizer)
    if mask is not None:
        bits -= _mask_bits(mask)
    preference = 0 if quantizer.name in ("channel", "row", "relu", "bitmask") else 2
    if isinstance(quantizer, Exact):
        return max(bits, 0) * SCALE + preference + (0 if name_of(value) in SOURCES else 1)
    return max(bits, 0) * SCALE + preference + 1


def _mask_bits(mask: fx.Node) -> int:
    own = tensor(mask)
    assert own is not None and is_bool(mask)
    return Bitmask().nbytes(own) * 8
