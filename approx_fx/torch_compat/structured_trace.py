"""torch._logging: log graphs as artifacts of TORCH_TRACE, which tlparse shows beside torch.compile's own."""

from __future__ import annotations

from torch import fx
from torch._logging import trace_structured


def log_graph(name: str, module: fx.GraphModule) -> None:
    """Log a graph as readable code if TORCH_TRACE is set."""
    trace_structured(
        "artifact",
        metadata_fn=lambda: {"name": name, "encoding": "string"},
        payload_fn=lambda: module.print_readable(print_output=False, include_stride=True, include_device=True),
    )
