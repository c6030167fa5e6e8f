"""Bytes: predicted from the graphs, and measured as the allocator sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx

from .cut.rules import recomputable
from .joint.ops import CASTS, VIEWS, name_of, through
from .joint.values import nbytes, tensor
from .ops import reference_of


@dataclass(frozen=True)
class Live:
    """Bytes over a measured call. peak: the most alive at once; held: still alive at its end; both above the start."""

    peak: int
    held: int


def predicted_peak(forward: fx.GraphModule, backward: fx.GraphModule) -> int:
    """Most bytes of activations and gradients alive at once in one step: no parameters, no inputs.

    A liveness walk over both graphs in their order. An elementwise result with one reader is taken to be fused into it.
    """
    saved = [node for node in backward.graph.find_nodes(op="placeholder") if not node.name.startswith("primals")]
    ends = sum(nbytes(node) for node in saved)
    return max(_walk(forward, 0), _walk(backward, ends))


def _walk(module: fx.GraphModule, start: int) -> int:
    nodes = list(module.graph.nodes)
    last: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        for source in node.all_input_nodes:
            last[_storage(source)] = node
    ending: dict[fx.Node, list[fx.Node]] = {}
    for source, reader in last.items():
        ending.setdefault(reader, []).append(source)
    live = peak = start
    for node in nodes:
        if node.op == "call_function" and _materialised(node):
            live += nbytes(node)
            peak = max(peak, live)
        for source in ending.get(node, ()):
            freed = _materialised(source) if source.op == "call_function" else not source.name.startswith("primals")
            if freed and (start or source.op != "placeholder"):
                live -= nbytes(source)
    return peak


def _storage(node: fx.Node) -> fx.Node:
    return through(node, VIEWS)


def _materialised(node: fx.Node) -> bool:
    if tensor(node) is None or name_of(node) in VIEWS or name_of(node) in ("full", "scalar_tensor"):
        return False
    fuses = recomputable(node) or name_of(node) in CASTS or reference_of(node.target) is not None
    return not (fuses and len(node.users) == 1)


def measure(call: Callable[[], object]) -> Live:
    """Exact live bytes during `call`: CPU by the profiler's allocation events, CUDA by the allocator's own count."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return _measure_cuda(call)
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    live = peak = 0
    for event in sorted(_allocations(profiler), key=lambda pair: pair[0]):
        live += event[1]
        peak = max(peak, live)
    del result
    return Live(peak, live)


def _allocations(profiler: torch.profiler.profile) -> list[tuple[int, int]]:
    from .host.profiler import allocations

    return allocations(profiler)


def _measure_cuda(call: Callable[[], object]) -> Live:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    live = Live(torch.cuda.max_memory_allocated() - start, torch.cuda.memory_allocated() - start)
    del result
    return live


def peak_bytes(step: Callable[[], object]) -> int:
    """The most bytes alive at once during `step`, above what was alive before it."""
    return measure(step).peak
