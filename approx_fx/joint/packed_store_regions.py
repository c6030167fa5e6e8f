"""Each packed store of a half becomes one node: the value, what is computed on the way to it, and the ops that pack.

The node's target holds these as a graph of its own. What it makes of them is its own affair: `inductor.packed_store`
lowers them into one loop.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import fx

from .graph import ancestors
from .packed_stores import PackedStore, Packing, find_packed_stores

PERMUTE = torch.ops.aten.permute.default
# (graph, value, count, packing, reused) -> the target of the one node; see `inductor.packed_store.PackedStoreRegion`.
RegionOf = Callable[
    [fx.Graph, fx.Node, int, Mapping[fx.Node, Packing], Mapping[fx.Node, int]], Callable[..., tuple[Any, ...]]
]


def group_packed_stores(graph: fx.Graph, ours: Collection[Any], region_of: RegionOf) -> None:
    """Make one node of every packed store of a graph, in place. ours: the targets of our ops."""
    for value, store in find_packed_stores(graph, ours).items():
        members = _region(graph, value, store)
        if members is not None:
            _replace(graph, value, store, members, region_of)


def _region(graph: fx.Graph, value: fx.Node, store: PackedStore) -> list[fx.Node] | None:
    """The nodes to be lowered together, those that pack behind the others; None where the value cannot be among them.

    What another node depends on, which the region reads in turn, as statistics of an activation, is lowered before it.
    """
    members = {value, *store.inner, *store.packing}
    permutes = {node for op in store.packing for node in op.all_input_nodes if node.target is PERMUTE}
    members |= {node for node in permutes if node.all_input_nodes[0] in members}
    order = [node for node in graph.nodes if node in members]
    while True:
        inputs = {source for node in members for source in node.all_input_nodes} - members
        between = ancestors(inputs) & ({user for node in members for user in node.users} - members)
        early = {node for node in members if not between.isdisjoint(node.users)}
        if not early:
            break
        members -= early
    if value not in members or (store.packing and members.isdisjoint(store.packing)):
        return None
    return sorted((node for node in order if node in members), key=lambda node: node in store.packing)


def _replace(graph: fx.Graph, value: fx.Node, store: PackedStore, nodes: list[fx.Node], region_of: RegionOf) -> None:
    members = set(nodes)
    inside = fx.Graph()
    inputs = list(dict.fromkeys(s for node in nodes for s in node.all_input_nodes if s not in members))
    copies = {source: inside.placeholder(source.name) for source in inputs}
    outputs: dict[fx.Node, fx.Node] = {}  # a node that is read from outside -> what the region returns for it
    for node in nodes:
        copies[node] = inside.node_copy(node, copies.__getitem__)
        for user in [user for user in node.users if user not in members]:
            if isinstance(node.meta["val"], (tuple, list)):  # its items are, each by a getitem
                outputs[user] = inside.call_function(operator.getitem, (copies[node], user.args[1]))
            else:
                outputs[node] = copies[node]
    inside.output(tuple(outputs.values()))
    readers = {node: sum(user not in members for user in node.users) for node in nodes}
    region = region_of(
        inside,
        copies[value],
        store.count,
        {copies[op]: how for op, how in store.packing.items() if op in copies},
        {copies[node]: count for node, count in readers.items() if count and node not in store.packing},
    )
    last = max(nodes)
    with graph.inserting_before(last.next):
        call = graph.call_function(region, tuple(inputs))
        call.meta = {**value.meta, "val": tuple(node.meta["val"] for node in outputs)}
        for index, node in enumerate(outputs):
            item = graph.call_function(operator.getitem, (call, index))
            item.meta = dict(node.meta)
            for user in [user for user in node.users if user not in members]:
                user.replace_input_with(node, item)
    for node in [*(node for node in outputs if node not in members), *reversed(nodes)]:
        graph.erase_node(node)
