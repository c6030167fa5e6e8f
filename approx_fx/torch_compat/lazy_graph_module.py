"""torch.fx._lazy_graph_module: graph modules whose Python code is generated at their first call or print."""

from __future__ import annotations

import copy

from torch import fx
from torch.fx._lazy_graph_module import _LazyGraphModule


def copy_graph_module(module: fx.GraphModule) -> fx.GraphModule:
    """Copy the module and its graph; the nodes of the copy share the metadata values of the original's nodes."""
    return _LazyGraphModule(module, copy.deepcopy(module.graph))
