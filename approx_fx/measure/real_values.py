"""`RealBuild`: runs on real tensors what an encoding would add to a graph as nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_map

from ..torch_compat.fake_tensors import size_in_step


@dataclass(frozen=True)
class RealBuild:
    """Has the interface of `passes.node_builder.Builder`, but `call` returns a result, not a node.

    values: node -> its value in this step, for nodes among the arguments. sizes: symbol -> its size in this step.
    """

    values: Mapping[fx.Node, Any]
    sizes: Mapping[Any, int]

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The result of `target` on the values of the arguments."""
        args, kwargs = tree_map(self.value_of, (args, kwargs))
        return target(*args, **kwargs)

    def value_of(self, item: Any) -> Any:
        """A node's value, a symbolic size's number, anything else itself."""
        if isinstance(item, fx.Node):
            return self.values[item]
        if isinstance(item, torch.SymInt):
            return size_in_step(item, self.sizes)
        return item
