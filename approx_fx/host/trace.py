"""torch._logging: graphs among the artifacts of TORCH_TRACE, where tlparse shows them beside torch.compile's own."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx
from torch._logging import trace_structured


def keep_text(name: str, text: Callable[[], str]) -> None:
    """Keep a text under this name, if traces are kept; only then is it made."""
    trace_structured("artifact", metadata_fn=lambda: {"name": name, "encoding": "string"}, payload_fn=text)


def keep_graph(name: str, module: fx.GraphModule) -> None:
    """Keep a graph as readable code."""
    keep_text(name, lambda: module.print_readable(print_output=False, include_stride=True, include_device=True))
