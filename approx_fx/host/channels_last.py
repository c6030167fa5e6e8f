"""torch._inductor on a GPU: where convolutions are laid out channels-last, so is all that their backward reads.

Here a convolution's backward is two ops, for what reads an approximation and what does not. One is a convolution, which
Inductor lays out channels-last. For the other it asks for the trace's layout, and in a model that is contiguous writes
each gradient twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any
from unittest import mock

import torch
from torch import fx

aten = torch.ops.aten
READ = 2  # arguments, the first: the gradient and the image


@contextlib.contextmanager
def gradients_channels_last(half: fx.GraphModule, ours: Collection[Any]) -> Iterator[None]:
    """Inductor inside does so, if `half` calls one of `ours`. For one compile at a time."""
    from torch._inductor import lowering
    from torch._inductor.graph import GraphLowering
    from torch._inductor.ir import ExternKernel
    from torch._inductor.virtualized import V
    from torch._prims_common import make_channels_last_strides_for

    if not any(node.target in ours for node in half.graph.nodes):
        yield
        return
    op: Any = aten.convolution_backward.default
    find, theirs = GraphLowering.find_nodes_prefer_channels_last, lowering.maybe_layout_constraints(op)

    def found(self: Any) -> Any:
        """Inductor orders such a value by its metadata: before it is lowered, that says channels-last."""
        for node in self.module.graph.find_nodes(op="call_function", target=op):
            for read in node.args[:READ]:
                value = read.meta["val"]
                if _is_free(read) and _is_image(value):
                    strides = make_channels_last_strides_for(value.shape)
                    read.meta["val"] = value.new_empty_strided(value.shape, strides)
        return find(self)

    def constraint(node: fx.Node, *args: Any, **options: Any) -> tuple[Any, Any]:
        if not V.graph.layout_opt or not all(_is_image(read.meta["val"]) for read in node.args[:READ]):  # type: ignore[union-attr]
            return theirs(node, *args, **options) if theirs is not None else (args, options)
        return (*map(ExternKernel.require_channels_last, args[:READ]), *args[READ:]), options

    with (
        mock.patch.object(GraphLowering, "find_nodes_prefer_channels_last", found),
        mock.patch.dict(lowering._maybe_layout_constraints, {op: constraint}),
    ):
        yield


def _is_free(node: fx.Node) -> bool:
    """Whether nobody counts on the order that the trace has for a computed value."""
    counted = any(user.op == "output" or "strided" in str(user.target) for user in node.users)
    return node.op == "call_function" and not counted and "inductor_realize_to_strides" not in node.meta


def _is_image(value: torch.Tensor) -> bool:
    known = all(isinstance(size, int) for size in value.shape)
    return known and value.ndim == 4 and value.device.type != "cpu"
