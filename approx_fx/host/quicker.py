"""torch._inductor: two of its analyses, at a fraction of their time and with the same results.

Strides     Inductor asks sympy.simplify, which tries many forms, for the step of an index along a loop. An index is a
            sum of products of loop variables and of FloorDiv and ModularIndexing terms, which have one expanded form:
            a step that is a number comes out as that number.
Data types  The object that tells an operation's result type fills its table of rules again for each operation of each
            loop body, though there is one such object and one table.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
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


@contextlib.contextmanager
def quicker() -> Iterator[None]:
    """Inductor's analyses of loops inside are the quicker ones. For one compile at a time."""
    from torch._inductor import sizevars
    from torch._inductor.dtype_propagation import DtypePropagationOpsHandler

    fill, filled = DtypePropagationOpsHandler.__init__, False

    def once(self: Any) -> None:
        nonlocal filled
        if not filled:
            fill(self)
            filled = True

    algebra = types.SimpleNamespace(**{**vars(sympy), "simplify": expanded})
    with mock.patch.object(sizevars, "sympy", algebra), mock.patch.object(DtypePropagationOpsHandler, "__init__", once):
        yield
