"""torch._subclasses: compute meta["val"] of nodes with fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils._pytree import tree_map
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis


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


def is_known(condition: Any) -> bool:
    """Return True if a comparison of sizes holds for all sizes that the graph may be called with; adds no guard."""
    return statically_known_true(condition)


def symbols_in(graph: fx.Graph) -> list[torch.SymInt]:
    """The symbols that the sizes of a graph's inputs are, or are computed from."""
    return list({size.node.expr: size for _, _, size in _symbolic_sizes(graph)}.values())


def _symbolic_sizes(graph: fx.Graph) -> Iterator[tuple[fx.Node, int | None, torch.SymInt]]:
    """The sizes of inputs that are a symbol: (the input, the dimension, the size); None for an input that is a size."""
    for node in graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        sizes: Any = enumerate(value.shape) if isinstance(value, torch.Tensor) else [(None, value)]
        for dim, size in sizes:
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                yield node, dim, size


def add_size(graph: fx.Graph, size: torch.SymInt) -> fx.Node | None:
    """A node that is this size, computed from the graph's inputs at the insertion point; None if they do not tell."""
    places = {known.node.expr: (node, dim) for node, dim, known in _symbolic_sizes(graph)}
    places |= {known.node.expr: (node, dim) for node, dim, known in _symbolic_sizes(graph) if dim is None}
    if not size.node.expr.free_symbols <= places.keys():
        return None
    known = {
        symbol: node if dim is None else graph.call_function(torch.ops.aten.sym_size.int, (node, dim))
        for symbol, (node, dim) in places.items()
        if symbol in size.node.expr.free_symbols
    }
    symbols = {symbol: fx.Proxy(node) for symbol, node in known.items()}
    made = sympy_interp(PythonReferenceAnalysis, symbols, size.node.expr)
    stack = [made.node]
    while stack:
        node = stack[-1]
        missing = [source for source in node.all_input_nodes if "val" not in source.meta]
        stack += missing
        if not missing:
            values = fx.map_arg(node.args, lambda source: source.meta["val"])
            node.meta.setdefault("val", node.target(*values) if node.op == "call_function" else None)  # type: ignore[operator]
            stack.pop()
    result: fx.Node = made.node
    return result


def size_in_step(size: Any, sizes: Mapping[Any, int]) -> int:
    """A SymInt as a number. sizes: see `symbols_of`."""
    return int(size.node.expr.xreplace({symbol: value for symbol, value in sizes.items() if symbol.is_Symbol}))
