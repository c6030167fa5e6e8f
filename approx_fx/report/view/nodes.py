"""The nodes of both halves as plain data: forward and backward, what each reads, and what crosses over saved."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from ...joint.attribution import module_of, source_of
from ...joint.batch_norm import BatchNorm
from ...joint.fake_values import nbytes, sizes, tensor
from ...joint.op_table import CASTS
from ...joint.ops import name_of, skip_ops
from ...ops import reference_of

# Pointwise ops behind a batch normalisation that are drawn as part of its chain.
ACTIVATIONS = frozenset(["relu", "hardtanh", "clamp_min", "clamp_max", "leaky_relu", "le", "gt"])
HEADS = frozenset(["convolution", "mm", "addmm"])


@dataclass(frozen=True)
class Node:
    """One op. role: '', 'saved', 'quantize', 'dequantize' or 'recomputed'; chain: of which conv-BN-ReLU chain, or -1.

    reads: indices of the nodes it reads; from_saved: of those that it reads from the other half, saved.
    """

    name: str
    op: str
    module: str
    side: str
    shape: str
    bytes: int
    source: str
    role: str
    chain: int
    reads: tuple[int, ...]
    from_saved: tuple[int, ...]


def nodes_of(
    forward: fx.GraphModule, backward: fx.GraphModule, copies: Collection[str], chains: Mapping[str, int]
) -> tuple[Node, ...]:
    """All ops, the forward's first. copies: names of decoded and recomputed nodes; chains: node name -> its chain."""
    crossing = {node.name for node in backward.graph.find_nodes(op="placeholder")}
    index: dict[str, int] = {}
    found: list[Node] = []
    for side, half in (("forward", forward), ("backward", backward)):
        for node in half.graph.find_nodes(op="placeholder") if side == "forward" else []:
            crossing.discard(node.name)
        own: dict[str, int] = {}
        for node in half.graph.nodes:
            if node.op != "call_function":
                continue
            inputs = node.all_input_nodes
            reads = tuple(own[source.name] for source in inputs if source.name in own)
            saved = tuple(index[s.name] for s in inputs if s.op == "placeholder" and s.name in index)
            own[node.name] = len(found)
            role = _role(node, side, crossing, copies)
            chain = chains.get(node.name, -1) if side == "forward" else -1
            found.append(
                Node(node.name, name_of(node), module_of(node), side, shape_text(node), nbytes(node), source_of(node),
                     role, chain, reads, saved)
            )  # fmt: skip
        index.update(own)
    return tuple(found)


def _role(node: fx.Node, side: str, crossing: Collection[str], copies: Collection[str]) -> str:
    maker = node.args[0] if name_of(node) == "getitem" else node
    ours = isinstance(maker, fx.Node) and is_ours(maker)
    if side == "backward":
        return "dequantize" if ours else "recomputed" if node.name in copies else ""
    return "quantize" if ours else "saved" if node.name in crossing else ""


def is_ours(node: fx.Node) -> bool:
    """Whether a node is one of this pass's ops: it codes, or decodes."""
    return node.op == "call_function" and reference_of(node.target) is not None


def shape_text(node: fx.Node) -> str:
    """'64x3x32x32 float32', or '' for what is not one tensor."""
    own = tensor(node)
    if own is None:
        return ""
    return "x".join(map(str, sizes(own))) + f" {str(own.dtype).removeprefix('torch.')}"


def chain_members(chains: Sequence[BatchNorm]) -> dict[str, int]:
    """Node name -> the number of the chain it belongs to: convolution, normalisation, activation."""
    found: dict[str, int] = {}
    for number, chain in enumerate(chains):
        stack, seen = [chain.output], set()
        ends = (chain.x, chain.weight, chain.bias)
        while stack:
            node = stack.pop()
            if node in seen or node.op != "call_function":
                continue
            seen.add(node)
            if node not in ends:
                stack.extend(node.all_input_nodes)
        head = skip_ops(chain.x, CASTS)
        if name_of(head) not in HEADS:
            seen.discard(chain.x)
        else:
            seen.add(head)
        behind = [chain.output, *(user for user in chain.output.users if name_of(user) in CASTS)]
        seen |= {user for end in behind for user in end.users if name_of(user) in ACTIVATIONS}
        for node in seen:
            found.setdefault(node.name, number)
    return found
