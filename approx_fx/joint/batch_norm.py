"""Chains: batch normalisations found as subgraphs of the joint graph, with the masks that lie behind them.

A pattern is declared as lines `name: ops <- inputs`; matching is networkx's subgraph monomorphism on the forward with
casts, views and broadcasts contracted, around one `var_mean` at a time. That makes it blind to mixed precision, to the
order of arguments, and to what comes before or behind: a residual sum, a missing ReLU, BN before the convolution.
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
from .op_table import CASTS, TABLE, VIEWS
from .ops import name_of, skip_ops

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
REACH = 8  # edges between the statistics and the last node of the longest pattern, with one to spare


@dataclass(frozen=True)
class BatchNorm:
    """One batch normalisation over all dimensions but `dim`.

    x: what is normalised; mean, rstd: C elements each;
    weight, bias: gamma and beta, or None; output: gamma (x - mean) rstd + beta.
    masks: the comparisons that tell the output's side of a constant, first the one the codes can carry.
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
    """A pattern's text as a graph whose nodes carry the attribute `op`."""
    graph = nx.DiGraph()
    for line in filter(str.strip, pattern.splitlines()):
        name, _, rule = line.partition(":")
        op, _, inputs = rule.partition("<-")
        graph.add_node(name.strip(), op=op.strip())
        graph.add_edges_from((source, name.strip()) for source in inputs.split())
    return graph


def find_batch_norms(joint: JointGraph, masks: list[Mask]) -> list[BatchNorm]:
    """Every batch normalisation that computes its statistics from the batch, in graph order."""
    graph = contracted(joint)
    by_value: dict[fx.Node, list[Mask]] = {}
    for mask in masks:
        by_value.setdefault(mask.value, []).append(mask)
    patterns = {name: declared(text) for name, text in PATTERNS.items()}
    chains: list[BatchNorm] = []
    for stats in [node for node in joint.forward if name_of(node) == "var_mean"]:
        dim = _channel_dim(stats)
        if dim is not None:
            chains.extend(_match(graph, patterns, stats, dim, by_value))
    return sorted(chains, key=lambda chain: joint.order[chain.x])


def contracted(joint: JointGraph) -> nx.DiGraph:
    """The forward as a graph of fx nodes, with casts, views and broadcasts skipped."""
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
    near = nx.single_source_shortest_path_length(graph, stats, cutoff=REACH)
    keep = {node for node in near if graph.nodes[node]["op"] in ("var_mean", "getitem", "add", "rsqrt", "sub", "mul")}
    keep |= {source for node in keep for source in graph.predecessors(node)}
    local = graph.subgraph(keep).copy()  # a view asks its filter at every step
    for name, pattern in patterns.items():
        matcher = DiGraphMatcher(local, pattern, node_match=lambda a, b: b["op"] in ("*", a["op"]))
        for match in matcher.subgraph_monomorphisms_iter():
            role = {role: node for node, role in match.items()}
            if role["stats"] is stats and role["x"] is x and _roles_hold(role, dim):
                output = role.get("shifted", role["normal"])
                behind = sorted(_masks_of(output, masks), key=lambda mask: (mask.threshold != 0, mask.threshold))
                yield BatchNorm(
                    name, stats.args[0], role["mean"], role["rstd"],  # type: ignore[arg-type]
                    role.get("weight"), role.get("bias"), output, dim, tuple(behind),
                )  # fmt: skip
                return


def _roles_hold(role: dict[str, fx.Node], dim: int) -> bool:
    """The parts of the pattern that edges cannot say: which getitem is which, and that gamma and beta are rows."""
    if role["var"].args[1] != 0 or role["mean"].args[1] != 1 or not is_float(role["x"]):
        return False
    channels = tensor(role["x"]).shape[dim]  # type: ignore[union-attr]
    rows = [role[name] for name in ("weight", "bias") if name in role]
    return all(tensor(row) is not None and numel(tensor(row)) == channels for row in rows)  # type: ignore[arg-type]


def _masks_of(output: fx.Node, masks: dict[fx.Node, list[Mask]]) -> list[Mask]:
    found = list(masks.get(output, []))
    for user in output.users:
        if name_of(user) in CASTS:
            found.extend(masks.get(user, []))
    return found


def _channel_dim(stats: fx.Node) -> int | None:
    """The one dimension that the statistics are not reduced over, or None."""
    value = tensor(stats.args[0])  # type: ignore[arg-type]
    if value is None or len(stats.args) < 2 or not isinstance(stats.args[1], (list, tuple)):
        return None
    reduced = {dim % value.ndim for dim in stats.args[1]}  # type: ignore[operator]
    left = [dim for dim in range(value.ndim) if dim not in reduced]
    return left[0] if len(left) == 1 and value.ndim >= 2 and 0 in reduced else None
