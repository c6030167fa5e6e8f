"""torch.fx._lazy_graph_module: a graph module whose Python code is written when it is first called or printed.

Under dynamo most of torch's own passes make such modules already.
"""

from __future__ import annotations

from torch import fx
from torch.fx._lazy_graph_module import _LazyGraphModule


def lazy_module(root: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """`graph` as a module with `root`'s attributes."""
    return _LazyGraphModule(root, graph)
