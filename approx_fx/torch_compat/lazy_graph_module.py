"""torch.fx._lazy_graph_module: graph modules whose Python code is generated at their first call or print."""

from __future__ import annotations

from torch import fx
from torch.fx._lazy_graph_module import _LazyGraphModule


def copy_graph_module(module: fx.GraphModule) -> fx.GraphModule:
    """Copy the module and its graph; the nodes of the copy share the metadata values of the original's nodes.

    As a deep copy of the graph does, but for its code generator, which is shared: copying that logs a warning of
    torch's about its own pytrees.
    """
    graph = fx.Graph()
    result = graph.graph_copy(module.graph, {})
    (original,) = module.graph.find_nodes(op="output")
    graph.output(result, original.type).meta = dict(original.meta)
    graph.set_codegen(module.graph._codegen)
    return _LazyGraphModule(module, graph)
