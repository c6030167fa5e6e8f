"""Fallback for a half that Inductor or Triton fails to compile: plainer compiles in turn, op by op as the last."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from ..torch_compat.lazy_graph_module import copy_graph_module

log = logging.getLogger(__name__)
Way = Callable[[fx.GraphModule], Any]


def first_that_compiles(half: fx.GraphModule, ways: Sequence[Way], on_last: Callable[[Exception], None]) -> Any:
    """The half compiled by the first of `ways` that does not raise. An exception of the last way is raised.

    on_last: called with the exception of the last but one, before the last way is tried. A compile changes its graph in
    place, so a copy is kept for the next way.
    """
    for number, way in enumerate(ways[:-1]):
        backup = copy_graph_module(half)
        try:
            return way(half)
        except Exception as error:
            half = backup
            if number == len(ways) - 2:
                on_last(error)
            else:
                log.debug("a half is compiled again, in a plainer way: %s", error)
    return ways[-1](half)


def draws_from_saved_seeds(half: fx.GraphModule) -> bool:
    """The half draws random numbers again that the other half drew: only compiled code draws the same ones."""
    return any(
        "inductor_lookup_seed" in str(node.target) and node.all_input_nodes[0].op == "placeholder"
        for node in half.graph.nodes
    )


def run_op_by_op(half: fx.GraphModule) -> Any:
    """The half as a boxed callable that runs each op by itself: slower, with the same results."""
    from functorch.compile import make_boxed_func

    return make_boxed_func(half.forward)
