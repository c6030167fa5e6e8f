"""torch._inductor: some of its work at a fraction of its time, with the same results.

Strides     Inductor asks sympy.simplify, which tries many forms, for the step of an index along a loop. An index is a
            sum of products of loop variables and of FloorDiv and ModularIndexing terms, which have one expanded form:
            a step that is a number comes out as that number.
Data types  The object that tells an operation's result type fills its table of rules again for each operation of each
            loop body, though there is one such object and one table.
Bodies      A loop body is run as a graph, many times; two context managers a node note whose stack trace is at work,
            which a loop body's nodes do not have.
Ranges      The range of each value of a loop body is worked out, in sympy; C++ is written the same whatever they are,
            but where a value is an index.
Symbols     Each kernel is searched for the symbols in its sizes, also where no size is a symbol.
Tails       A vectorised loop has a tail for what fills no vector. It is written also where nothing is left, and then
            dropped.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import sympy
from sympy.core.function import Application


def expanded(expression: Any) -> Any:
    """An index expression as a sum of products, its function terms taken as symbols."""
    expression = sympy.sympify(expression)
    terms = {term: sympy.Dummy(integer=True) for term in expression.atoms(Application)}
    outer = expression.xreplace(terms)
    return sympy.expand(outer).xreplace({symbol: term for term, symbol in terms.items()})


def is_empty(kernel: Any) -> bool:
    """Whether a C++ kernel being written is for a tail in which nothing is left; a size is None where there is no tail.

    The last of a tiled loop's kernels, that of both tails, also ends the outer tail's reductions: it is needed as long
    as there is an outer tail.
    """
    if hasattr(kernel, "outer_tail_size"):
        inner, outer = kernel.inner_tail_size, kernel.outer_tail_size
        return bool(outer == 0 or (outer is None and inner == 0))
    return bool(getattr(kernel, "tail_size", None) == 0)


def written(function: Any) -> Callable[..., Any]:
    """What writes a node's loop body into the kernel at work, `function`, does not where that would never run."""
    from torch._inductor.virtualized import V

    def write(*ranges: Any) -> Any:
        return None if is_empty(V.kernel) else function(*ranges)

    outer: Any = write
    outer.original_fn = getattr(function, "original_fn", function)  # where Inductor looks for the node
    return write


@contextlib.contextmanager
def quicker() -> Iterator[None]:
    """Inductor inside does all this the quicker way. For one compile at a time."""
    from torch._inductor.codegen.common import Kernel
    from torch._inductor.codegen.cpp import CppKernel, CppKernelProxy, stride_at_vec_range
    from torch._inductor.dtype_propagation import DtypePropagationOpsHandler
    from torch._inductor.loop_body import InterpreterShim
    from torch._inductor.scheduler import Scheduler
    from torch._inductor.virtualized import V
    from torch.utils._ordered_set import OrderedSet

    fill, filled = DtypePropagationOpsHandler.__init__, False
    write, enter, symbols = (
        CppKernelProxy.codegen_functions, Kernel.set_current_node, Scheduler.get_graph_partition_symbol_inputs
    )  # fmt: skip

    def once(self: Any) -> None:
        nonlocal filled
        if not filled:
            fill(self)
            filled = True

    def run_node(self: Any, node: Any) -> Any:
        self.current_node = node
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        return getattr(self, node.op)(node.target, args, kwargs)

    @contextlib.contextmanager
    def set_current_node(self: Any, node: Any) -> Iterator[None]:
        if node._body.indirect_vars or not isinstance(self, CppKernel):
            with enter(self, node):
                yield
            return
        prior, self.current_node, self.node_to_bounds = self.current_node, node, {}
        try:
            yield
        finally:
            self.current_node = prior

    def get_graph_partition_symbol_inputs(self: Any, *rest: Any) -> Any:
        return symbols(self, *rest) if V.graph.sizevars.shape_env.var_to_range else OrderedSet()

    def codegen_functions(self: Any, functions: Sequence[Any], sizes: Sequence[Any]) -> None:
        mine = all(hasattr(function, "original_fn") or hasattr(function, "func") for function in functions)
        write(self, [written(function) for function in functions] if mine else functions, sizes)

    algebra = types.SimpleNamespace(**{**vars(sympy), "simplify": expanded})
    with contextlib.ExitStack() as stack:
        for place, name, ours in (
            (sys.modules[stride_at_vec_range.__module__], "sympy", algebra),  # codegen.cpp before torch 2.13
            (DtypePropagationOpsHandler, "__init__", once),
            (InterpreterShim, "run_node", run_node),
            (CppKernelProxy, "codegen_functions", codegen_functions),
            (Kernel, "set_current_node", set_current_node),
            (Scheduler, "get_graph_partition_symbol_inputs", get_graph_partition_symbol_inputs),
        ):
            stack.enter_context(mock.patch.object(place, name, ours))
        yield
