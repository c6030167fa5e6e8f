"""torch._subclasses: compute meta["val"] of nodes with fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map


def mode_of(graph: fx.Graph) -> FakeTensorMode:
    """The fake tensor mode that the graph was traced in, or a new one."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, FakeTensor):
            return value.fake_mode
    return FakeTensorMode()


def evaluate(mode: FakeTensorMode, target: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call `target` with the nodes' fake values in place of the nodes; return its fake result."""

    def value_of(item: Any) -> Any:
        return item.meta["val"] if isinstance(item, fx.Node) else item

    with mode, torch.no_grad():
        return target(*tree_map(value_of, args), **tree_map(value_of, kwargs))


def fake_mode_for_model() -> AbstractContextManager[FakeTensorMode]:
    """A fake tensor mode for building a fake model and inputs; real tensors that it meets are converted."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def symbols_of(graph: fx.Graph, values: Sequence[Any]) -> dict[Any, int]:
    """Symbol -> its size, from the values that a graph's first placeholders have in one step."""
    placeholders = graph.find_nodes(op="placeholder")
    sizes: dict[Any, int] = {}
    for node, value in zip(placeholders, values, strict=False):
        fake = node.meta.get("val")
        if isinstance(fake, torch.SymInt) and isinstance(value, int):
            sizes[fake.node.expr] = value
        elif isinstance(fake, torch.Tensor) and isinstance(value, torch.Tensor):
            pairs: Any = zip(fake.shape, value.shape, strict=False)
            sizes.update({size.node.expr: real for size, real in pairs if isinstance(size, torch.SymInt)})
    return sizes


def size_in_step(size: Any, sizes: Mapping[Any, int]) -> int:
    """A SymInt as a number. sizes: see `symbols_of`."""
    return int(size.node.expr.xreplace({symbol: value for symbol, value in sizes.items() if symbol.is_Symbol}))
