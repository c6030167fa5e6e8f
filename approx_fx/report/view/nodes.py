"""The nodes of both halves as plain data: what each reads in its half, and which saved values of the other half."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from ...joint.attribution import module_of, source_of
from ...joint.batch_norm import BatchNorm
from ...joint.fake_values import nbytes, sizes, tensor
from ...joint.op_table import CASTS, name_of, skip_ops
from ...ops import reference_of

# Pointwise ops after a batch norm that are drawn as part of its conv-BN-ReLU chain.
ACTIVATIONS = frozenset(["relu", "hardtanh", "clamp_min", "clamp_max", "leaky_relu", "le", "gt"])
HEADS = frozenset(["convolution", "mm", "addmm"])


@dataclass(frozen=True)
class Node:
    """One op. role: '', 'saved', 'quantize', 'dequantize' or 'recomputed'.

    chain: the number of its conv-BN-ReLU chain, or -1. reads: indices of the nodes it reads in its half; from_saved:
    indices of the forward nodes whose saved results it reads.
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
    """All ops, the forward's first. copies: names of decoded and recomputed nodes; chains: node name -> number."""
    crossing = {node.name for node in backward.graph.find_nodes(op="placeholder")}
    index: dict[str, int] = {}
    nodes: list[Node] = []
    for side, half in (("forward", forward), ("backward", backward)):
        for node in half.graph.find_nodes(op="placeholder") if side == "forward" else []:
            crossing.discard(node.name)
        index_in_half: dict[str, int] = {}
        for node in half.graph.nodes:
            if node.op != "call_function":
                continue
            inputs = node.all_input_nodes
            reads = tuple(index_in_half[source.name] for source in inputs if source.name in index_in_half)
            saved = tuple(index[s.name] for s in inputs if s.op == "placeholder" and s.name in index)
            index_in_half[node.name] = len(nodes)
            role = _role(node, side, crossing, copies)
            chain = chains.get(node.name, -1) if side == "forward" else -1
            nodes.append(
                Node(node.name, name_of(node), module_of(node), side, shape_text(node), nbytes(node), source_of(node),
                     role, chain, reads, saved)
            )  # fmt: skip
        index.update(index_in_half)
    return tuple(nodes)


def _role(node: fx.Node, side: str, crossing: Collection[str], copies: Collection[str]) -> str:
    producer = node.args[0] if name_of(node) == "getitem" else node
    encoding_op = isinstance(producer, fx.Node) and is_encoding_op(producer)
    if side == "backward":
        return "dequantize" if encoding_op else "recomputed" if node.name in copies else ""
    return "quantize" if encoding_op else "saved" if node.name in crossing else ""


def is_encoding_op(node: fx.Node) -> bool:
    """Whether a node is one of this package's ops, which encode or decode."""
    return node.op == "call_function" and reference_of(node.target) is not None


def shape_text(node: fx.Node) -> str:
    """Shape and dtype, such as '64x3x32x32 float32'; '' if the node's value is not one tensor."""
    fake = tensor(node)
    if fake is None:
        return ""
    return "x".join(map(str, sizes(fake))) + f" {str(fake.dtype).removeprefix('torch.')}"


def chain_members(chains: Sequence[BatchNorm]) -> dict[str, int]:
    """Node name -> the number of its chain: convolution, batch norm and activation."""
    chain_of: dict[str, int] = {}
    for number, chain in enumerate(chains):
        stack, members = [chain.output], set()
        ends = (chain.x, chain.weight, chain.bias)
        while stack:
            node = stack.pop()
            if node in members or node.op != "call_function":
                continue
            members.add(node)
            if node not in ends:
                stack.extend(node.all_input_nodes)
        head = skip_ops(chain.x, CASTS)
        if name_of(head) not in HEADS:
            members.discard(chain.x)
        else:
            members.add(head)
        outputs = [chain.output, *(user for user in chain.output.users if name_of(user) in CASTS)]
        members |= {user for end in outputs for user in end.users if name_of(user) in ACTIVATIONS}
        for node in members:
            chain_of.setdefault(node.name, number)
    return chain_of
