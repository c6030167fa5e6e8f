"""A half that Inductor, or Triton behind it, can't compile: compiled in a plainer way, at last run op by op."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from ..torch_compat.lazy_graph_module import copy_graph_module

log = logging.getLogger(__name__)
Way = Callable[[fx.GraphModule], Any]


def first_that_compiles(half: fx.GraphModule, ways: Sequence[Way], on_last: Callable[[Exception], None]) -> Any:
    """What the first of `ways` that does not raise makes of the half; only the last one's own exception comes through.

    on_last: called with the last exception before the last way is taken. A compile changes the graph that it is given,
    so each way gets a copy.
    """
    for number, way in enumerate(ways[:-1]):
        spare = copy_graph_module(half)
        try:
            return way(half)
        except Exception as error:
            half = spare
            if number == len(ways) - 2:
                on_last(error)
            else:
                log.debug("a half is compiled again, in a plainer way: %s", error)
    return ways[-1](half)


def run_op_by_op(half: fx.GraphModule) -> Any:
    """The half itself, boxed: slower, and with the same results."""
    from functorch.compile import make_boxed_func

    return make_boxed_func(half.forward)
