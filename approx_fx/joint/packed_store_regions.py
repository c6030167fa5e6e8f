"""Makes each packed store of a half one node: the value, the nodes it is computed by, and the ops that pack its codes.

The node's target holds them as a graph of its own; `inductor.packed_store` lowers that graph into one loop.
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
# (graph, value, count, packing, readers) -> the target of the new node; see `inductor.packed_store.PackedStoreRegion`.
RegionOf = Callable[
    [fx.Graph, fx.Node, int, Mapping[fx.Node, Packing], Mapping[fx.Node, int]], Callable[..., tuple[Any, ...]]
]


def group_packed_stores(graph: fx.Graph, our_ops: Collection[Any], region_of: RegionOf) -> None:
    """Replace every packed store of a graph by one node, in place. our_ops: the targets of our ops."""
    for value, store in find_packed_stores(graph, our_ops).items():
        nodes = _region(graph, value, store)
        if nodes is not None:
            _replace(graph, value, store, nodes, region_of)


def _region(graph: fx.Graph, value: fx.Node, store: PackedStore) -> list[fx.Node] | None:
    """The nodes of one region in graph order, ops that pack last; None if the value cannot be in the region.

    A node is left out if the region would read what is computed from it outside, as statistics of an activation are.
    """
    members = {value, *store.inner, *store.packing}
    permutes = {node for op in store.packing for node in op.all_input_nodes if node.target is PERMUTE}
    members |= {node for node in permutes if node.all_input_nodes[0] in members}
    order = [node for node in graph.nodes if node in members]
    while True:
        inputs = {source for node in members for source in node.all_input_nodes} - members
        outside = ancestors(inputs) & ({user for node in members for user in node.users} - members)
        excluded = {node for node in members if not outside.isdisjoint(node.users)}
        if not excluded:
            break
        members -= excluded
    if value not in members or (store.packing and members.isdisjoint(store.packing)):
        return None
    return sorted((node for node in order if node in members), key=lambda node: node in store.packing)


def _replace(graph: fx.Graph, value: fx.Node, store: PackedStore, nodes: list[fx.Node], region_of: RegionOf) -> None:
    """Move the nodes of a region into a graph of their own, and call it by one node."""
    members = set(nodes)
    region_graph = fx.Graph()
    inputs = list(dict.fromkeys(s for node in nodes for s in node.all_input_nodes if s not in members))
    copies = {source: region_graph.placeholder(source.name) for source in inputs}
    outputs: dict[fx.Node, fx.Node] = {}  # node read from outside -> the node of `region_graph` that is returned for it
    for node in nodes:
        copies[node] = region_graph.node_copy(node, copies.__getitem__)
        for user in [user for user in node.users if user not in members]:
            if isinstance(node.meta["val"], (tuple, list)):  # a region returns tensors: items instead of tuples
                outputs[user] = region_graph.call_function(operator.getitem, (copies[node], user.args[1]))
            else:
                outputs[node] = copies[node]
    region_graph.output(tuple(outputs.values()))
    readers = {node: sum(user not in members for user in node.users) for node in nodes}
    target = region_of(
        region_graph,
        copies[value],
        store.count,
        {copies[op]: how for op, how in store.packing.items() if op in copies},
        {copies[node]: count for node, count in readers.items() if count and node not in store.packing},
    )
    last = max(nodes)
    with graph.inserting_before(last.next):
        call = graph.call_function(target, tuple(inputs))
        call.meta = {**value.meta, "val": tuple(node.meta["val"] for node in outputs)}
        for index, node in enumerate(outputs):
            item = graph.call_function(operator.getitem, (call, index))
            item.meta = dict(node.meta)
            for user in [user for user in node.users if user not in members]:
                user.replace_input_with(node, item)
    for node in [*(node for node in outputs if node not in members), *reversed(nodes)]:
        graph.erase_node(node)
