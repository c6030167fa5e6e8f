"""The minimum cut: which values to keep, in the fewest bits, so that the backward can compute all that it demands.

Every value v is an edge v.in -> v.out whose capacity is the price of keeping v. A node on the sink's side is available
in the backward. Constraints are edges of infinite capacity; a -> b reads "b available needs a available":

    u.out -> v.in     v is recomputed from u                (one for each input of a recomputable v)
    source -> v.in    v may not be recomputed
    v.out -> sink     the backward demands v
    m.out -> x.out    the mask m is a bit-plane of x's code: keeping x in K bits is keeping m in 1, the rest in K - 1
    m.out -> r.in     recomputing a ReLU output r needs its exact mask m

By the last line but one a mask is free wherever its owner x is kept, and costs 1 bit where only the mask is needed.
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
    """The input of the cut. All nodes are values of the forward or either side.

    price: scaled bits (see `plan.SCALE`) of a value in its encoding, without the bit of a mask that it owns.
    free: values that the backward has in any case. recompute: value -> the values it is recomputed from; a value that
    may not be recomputed is absent. owners: value -> masks that are bit-planes of its code. demanded: the values that
    the backward reads.
    """

    price: Mapping[fx.Node, int]
    free: frozenset[fx.Node]
    recompute: Mapping[fx.Node, tuple[fx.Node, ...]]
    owners: Mapping[fx.Node, tuple[fx.Node, ...]]
    demanded: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Cut:
    """The result of the cut. kept: the anchors. recomputed: values recomputed from them. bits: price, scaled."""

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
    """The values in the cut's network, in a fixed order: demanded values, those they may be recomputed from, and masks.

    The result is a dict whose keys are the values.
    """
    visited: dict[fx.Node, None] = {}
    stack = list(reversed(problem.demanded))
    while stack:
        value = stack.pop()
        if value in visited or value in problem.free:
            continue
        visited[value] = None
        stack.extend(reversed((*problem.recompute.get(value, ()), *problem.owners.get(value, ()))))
    return visited
