"""The minimum cut: which values to keep so that the backward can compute all it demands, in the fewest bits.

Every value v is an edge v.in -> v.out whose capacity is the price of keeping v. A node on the sink's side is available
in the backward. Constraints are edges of infinite capacity, a -> b read as "b available needs a available":

    u.out -> v.in     v is recomputed from u                (one for each input of a recomputable v)
    source -> v.in    v may not be recomputed
    v.out -> sink     the backward demands v
    m.out -> x.out    the mask m is a bit-plane of x's code: keeping x in K bits is keeping m in 1, the rest in K - 1
    m.out -> r.in     recomputing a ReLU output r needs its exact mask m

The last line but one makes a mask free wherever its owner is kept, and leaves it 1 bit where only the mask is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx
from networkx.algorithms.flow import boykov_kolmogorov
from torch import fx

SOURCE, SINK = "source", "sink"


@dataclass(frozen=True)
class Problem:
    """What the cut decides on. All nodes are values of the forward or either side.

    price: bits (scaled, integer) for keeping a value in its best encoding, without the bit of a mask it owns.
    free: values the backward has anyway. recompute: value -> what it is recomputed from; absent: may not be recomputed.
    owners: value -> masks that are bit-planes of its code. demanded: what the backward reads.
    """

    price: Mapping[fx.Node, int]
    free: frozenset[fx.Node]
    recompute: Mapping[fx.Node, tuple[fx.Node, ...]]
    owners: Mapping[fx.Node, tuple[fx.Node, ...]]
    demanded: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Cut:
    """kept: the anchors; recomputed: values computed again from them; bits: the cut's price."""

    kept: frozenset[fx.Node]
    recomputed: frozenset[fx.Node]
    bits: int


def minimum_cut(problem: Problem) -> Cut:
    """Solve the problem with networkx (Boykov-Kolmogorov)."""
    graph = nx.DiGraph()
    graph.add_nodes_from((SOURCE, SINK))
    values = reachable(problem)
    for value in values:
        graph.add_edge((value, "in"), (value, "out"), capacity=problem.price[value])
        sources = problem.recompute.get(value)
        if sources is None:
            graph.add_edge(SOURCE, (value, "in"))
        for source in sources or ():
            if source not in problem.free:
                graph.add_edge((source, "out"), (value, "in"))
        for mask in problem.owners.get(value, ()):
            graph.add_edge((mask, "out"), (value, "out"))
    for value in problem.demanded:
        if value not in problem.free:
            graph.add_edge((value, "out"), SINK)
    if graph.out_degree(SOURCE) == 0 or graph.in_degree(SINK) == 0:
        return Cut(frozenset(), frozenset(v for v in values), 0)
    bits, (_, available) = nx.minimum_cut(graph, SOURCE, SINK, flow_func=boykov_kolmogorov)
    kept = frozenset(v for v in values if (v, "in") not in available and (v, "out") in available)
    recomputed = frozenset(v for v in values if (v, "in") in available and (v, "out") in available)
    return Cut(kept, recomputed, int(bits))


def reachable(problem: Problem) -> dict[fx.Node, None]:
    """The values that matter: the demanded ones, all they may be recomputed from, masks they own, in a fixed order."""
    seen: dict[fx.Node, None] = {}
    stack = list(reversed(problem.demanded))
    while stack:
        value = stack.pop()
        if value in seen or value in problem.free:
            continue
        seen[value] = None
        stack.extend(reversed((*problem.recompute.get(value, ()), *problem.owners.get(value, ()))))
    return seen
