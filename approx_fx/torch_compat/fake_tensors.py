"""torch._subclasses: computing a node's meta with fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map


def mode_of(graph: fx.Graph) -> FakeTensorMode:
    """The fake mode that the graph was traced in, or a new one."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, FakeTensor):
            return value.fake_mode
    return FakeTensorMode()


def evaluate(mode: FakeTensorMode, target: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What `target` returns for the nodes' fake values; no data is touched."""

    def value_of(item: Any) -> Any:
        return item.meta["val"] if isinstance(item, fx.Node) else item

    with mode, torch.no_grad():
        return target(*tree_map(value_of, args), **tree_map(value_of, kwargs))


def fake_mode_for_model() -> AbstractContextManager[FakeTensorMode]:
    """A fake mode to build a fake model and fake inputs in; real tensors met on the way are converted."""
    return FakeTensorMode(allow_non_fake_inputs=True)
