"""`Builder`, by which all passes construct nodes: it computes their fake values and copies their attribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from ..errors import PassFailed
from ..joint.fake_values import is_size
from ..torch_compat import aot_partitioner as aot
from ..torch_compat import fake_tensors

# Keys of `node.meta` that say where a node comes from, for error messages, reports and profilers.
ATTRIBUTION = (
    "stack_trace",
    "nn_module_stack",
    "fwd_nn_module_stack",
    "source_fn_stack",
    "original_aten",
    "seq_nr",
    "custom",
)


@dataclass
class Builder:
    """Adds nodes to `graph` at the graph's insertion point.

    mode: evaluates them on fake tensors. in_backward: whether they are marked as nodes of the backward. origin: the
    node whose attribution they get, or None. sizes: symbolic size, as text -> the node that computes it.
    """

    graph: fx.Graph
    mode: FakeTensorMode = field(repr=False)
    in_backward: bool = False
    origin: fx.Node | None = None
    sizes: dict[str, fx.Node] = field(default_factory=dict, repr=False)

    @classmethod
    def on(cls, graph: fx.Graph, in_backward: bool = False) -> Builder:
        """A builder for a graph, with the fake mode of its nodes."""
        return cls(graph, fake_tensors.mode_of(graph), in_backward)

    @contextmanager
    def before(self, place: fx.Node, origin: fx.Node) -> Iterator[Builder]:
        """Context with a builder of backward nodes right before `place`, attributed to `origin`."""
        with self.graph.inserting_before(place):
            yield Builder(self.graph, self.mode, True, origin)

    @contextmanager
    def behind(self, inputs: list[fx.Node], origin: fx.Node) -> Iterator[Builder]:
        """Context with a builder of forward nodes right behind the last of `inputs`, attributed to `origin`."""
        place = max(inputs)
        if place.op == "placeholder":
            place = max(self.graph.find_nodes(op="placeholder"))
        with self.graph.inserting_before(place.next):
            yield Builder(self.graph, self.mode, False, origin)

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Add a node that calls `target`; its meta["val"] is the result on fake tensors.

        A symbolic size among the arguments is replaced by the graph input that is this size, or a node computed of
        some.

        Raises:
            PassFailed: the graph's inputs do not tell this size.
        """
        args, kwargs = tree_map(self.size, (args, kwargs))
        return self.call_of(fake_tensors.evaluate(self.mode, target, args, kwargs), target, *args, **kwargs)

    def call_of(self, value: Any, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Like `call`, for a result on fake tensors that is known: to compute it of symbolic sizes may add guards."""
        args, kwargs = tree_map(self.size, (args, kwargs))
        node = self.graph.call_function(target, args, kwargs)
        node.meta["val"] = value
        for key in ATTRIBUTION:
            if self.origin is not None and key in self.origin.meta:
                node.meta[key] = self.origin.meta[key]
        if self.in_backward:
            aot.keep_in_backward(node)
        return node

    def size(self, item: Any) -> Any:
        """The node that is a symbolic size: a SymInt argument would be a constant, the traced size. Others as they are.

        Raises:
            PassFailed: the graph's inputs do not tell it.
        """
        if not isinstance(item, torch.SymInt):
            return item
        for node in self.graph.find_nodes(op="placeholder"):
            if is_size(node) and str(node.meta["val"]) == str(item):
                return node
        text = str(item)
        if text.isdigit():
            return int(text)
        if text not in self.sizes:
            node = fake_tensors.add_size(self.graph, item)
            if node is None:
                raise PassFailed(f"no inputs of the graph tell the symbolic size {item}, which a code's length is")
            self.sizes[text] = node
        return self.sizes[text]
