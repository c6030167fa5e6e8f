"""Finds batch normalisations as subgraphs of the joint graph, with the masks computed from their outputs.

A pattern is declared as lines `name: op <- inputs`. Matching is networkx's subgraph monomorphism on the forward with
casts, views and broadcasts contracted, around one `var_mean` at a time. So mixed precision, the order of arguments, and
the ops before and behind (a residual sum, a missing ReLU, a norm before the convolution) make no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import networkx as nx
from networkx.algorithms.isomorphism import DiGraphMatcher
from torch import fx

from .fake_values import is_float, numel, tensor
from .graph import JointGraph
from .masks import Mask
from .op_table import CASTS, TABLE, VIEWS, name_of, skip_ops

TRANSPARENT = CASTS | {name for name in VIEWS if TABLE[name].view == "whole"}

NORMALISE = """
x:       *
stats:   var_mean <- x
var:     getitem <- stats
mean:    getitem <- stats
eps:     add <- var
rstd:    rsqrt <- eps
centred: sub <- x mean
normal:  mul <- centred rstd
"""
AFFINE = """
weight:  *
scaled:  mul <- normal weight
bias:    *
shifted: add <- scaled bias
"""
PATTERNS = {"batch_norm_affine": NORMALISE + AFFINE, "batch_norm": NORMALISE}
MAX_EDGES = 8  # edges between the statistics and the last node of the longest pattern, with one to spare


@dataclass(frozen=True)
class BatchNorm:
    """One batch normalisation of x over all dimensions but `dim`, the channels.

    pattern: its name in PATTERNS. mean, rstd: C elements each. weight, bias: gamma and beta, C elements each, or None.
    output: gamma (x - mean) rstd + beta. masks: comparisons of the output with a constant, those with 0 first; codes of
    x can carry the first.
    """

    pattern: str
    x: fx.Node
    mean: fx.Node
    rstd: fx.Node
    weight: fx.Node | None
    bias: fx.Node | None
    output: fx.Node
    dim: int
    masks: tuple[Mask, ...]


def declared(pattern: str) -> nx.DiGraph:
    """Parse a pattern's text into a graph whose nodes carry the attribute `op`."""
    graph = nx.DiGraph()
    for line in filter(str.strip, pattern.splitlines()):
        name, _, rule = line.partition(":")
        op, _, inputs = rule.partition("<-")
        graph.add_node(name.strip(), op=op.strip())
        graph.add_edges_from((source, name.strip()) for source in inputs.split())
    return graph


def find_batch_norms(joint: JointGraph, masks: list[Mask]) -> list[BatchNorm]:
    """Find every batch normalisation by statistics of the batch, in graph order. masks: all masks of the graph."""
    graph = contracted(joint)
    by_value: dict[fx.Node, list[Mask]] = {}
    for mask in masks:
        by_value.setdefault(mask.value, []).append(mask)
    patterns = {name: declared(text) for name, text in PATTERNS.items()}
    norms: list[BatchNorm] = []
    for stats in [node for node in joint.forward if name_of(node) == "var_mean"]:
        dim = _channel_dim(stats)
        if dim is not None:
            norms.extend(_match(graph, patterns, stats, dim, by_value))
    return sorted(norms, key=lambda norm: joint.order[norm.x])


def contracted(joint: JointGraph) -> nx.DiGraph:
    """The forward as a networkx graph of fx nodes, with casts, views and broadcasts contracted."""
    graph = nx.DiGraph()
    for node in joint.forward:
        if name_of(node) not in TRANSPARENT:
            graph.add_node(node, op=name_of(node))
            for source in node.all_input_nodes:
                graph.add_edge(skip_ops(source, TRANSPARENT), node)
    for node in graph.nodes:
        graph.nodes[node].setdefault("op", name_of(node))
    return graph


def _match(
    graph: nx.DiGraph, patterns: dict[str, nx.DiGraph], stats: fx.Node, dim: int, masks: dict[fx.Node, list[Mask]]
) -> Iterator[BatchNorm]:
    x = skip_ops(stats.args[0], TRANSPARENT)  # type: ignore[arg-type]
    near = nx.single_source_shortest_path_length(graph, stats, cutoff=MAX_EDGES)
    nodes = {node for node in near if graph.nodes[node]["op"] in ("var_mean", "getitem", "add", "rsqrt", "sub", "mul")}
    nodes |= {source for node in nodes for source in graph.predecessors(node)}
    neighbourhood = graph.subgraph(nodes).copy()  # a copy, because a networkx view filters at every access
    for name, pattern in patterns.items():
        matcher = DiGraphMatcher(neighbourhood, pattern, node_match=lambda a, b: b["op"] in ("*", a["op"]))
        for match in matcher.subgraph_monomorphisms_iter():
            role = {role: node for node, role in match.items()}
            if role["stats"] is stats and role["x"] is x and _roles_hold(role, dim):
                output = role.get("shifted", role["normal"])
                output_masks = sorted(_masks_of(output, masks), key=lambda mask: (mask.threshold != 0, mask.threshold))
                yield BatchNorm(
                    name, stats.args[0], role["mean"], role["rstd"],  # type: ignore[arg-type]
                    role.get("weight"), role.get("bias"), output, dim, tuple(output_masks),
                )  # fmt: skip
                return


def _roles_hold(role: dict[str, fx.Node], dim: int) -> bool:
    """Whether a match meets what edges cannot express: which getitem is which, and that gamma and beta are vectors."""
    if role["var"].args[1] != 0 or role["mean"].args[1] != 1 or not is_float(role["x"]):
        return False
    channels = tensor(role["x"]).shape[dim]  # type: ignore[union-attr]
    vectors = [tensor(role[name]) for name in ("weight", "bias") if name in role]
    return all(vector is not None and numel(vector) == channels for vector in vectors)


def _masks_of(output: fx.Node, masks: dict[fx.Node, list[Mask]]) -> list[Mask]:
    """The masks of a norm's output, and of its casts."""
    output_masks = list(masks.get(output, []))
    for user in output.users:
        if name_of(user) in CASTS:
            output_masks.extend(masks.get(user, []))
    return output_masks


def _channel_dim(stats: fx.Node) -> int | None:
    """The one dimension that the statistics are not reduced over, or None."""
    value = tensor(stats.args[0])  # type: ignore[arg-type]
    if value is None or len(stats.args) < 2 or not isinstance(stats.args[1], (list, tuple)):
        return None
    reduced = {dim % value.ndim for dim in stats.args[1]}  # type: ignore[operator]
    kept = [dim for dim in range(value.ndim) if dim not in reduced]
    return kept[0] if len(kept) == 1 and value.ndim >= 2 and 0 in reduced else None
