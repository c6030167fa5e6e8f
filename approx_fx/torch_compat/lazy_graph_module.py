"""torch.fx._lazy_graph_module: a graph module whose Python code is written when it is first called or printed.

Under dynamo most of torch's own passes make such modules already.
"""

from __future__ import annotations

import copy

from torch import fx
from torch.fx._lazy_graph_module import _LazyGraphModule


def copy_graph_module(module: fx.GraphModule) -> fx.GraphModule:
    """The module with a graph of its own, whose nodes share their values' metadata with the original's."""
    return _LazyGraphModule(module, copy.deepcopy(module.graph))
