"""torch._inductor: codes of a permuted value lie as that value does.

Where Inductor lays convolutions out channels-last, it wants all that follows from them to lie so, in their shape. Our
ops see a channels-last tensor in its memory order, batch, rows, columns, channels: codes of that laid out channels-last
once more would be a transposed copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any
from unittest import mock

import torch

aten = torch.ops.aten


@contextlib.contextmanager
def permuted_as_it_is(ours: Collection[Any]) -> Iterator[None]:
    """Inductor inside leaves the order of such codes alone. For one compile at a time."""
    from torch._inductor.graph import GraphLowering

    find = GraphLowering.find_nodes_prefer_channels_last

    def found(self: Any) -> Any:
        nodes = find(self)
        for node in self.module.graph.find_nodes(op="call_function", target=aten.permute.default):
            nodes.difference_update(user for user in node.users if user.target in ours)
        return nodes

    with mock.patch.object(GraphLowering, "find_nodes_prefer_channels_last", found):
        yield
