"""torch._inductor.decomposition and make_fx: trace functions to the aten ops that joint graphs consist of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx


def inductor_decompositions() -> dict[Any, Any]:
    """Inductor's decomposition table: batch norm to var_mean, rsqrt, mul, ...; threshold_backward to where."""
    from torch._inductor.decomposition import select_decomp_table

    return select_decomp_table()


def trace_to_aten(function: Callable[..., Any], values: list[Any], mode: Any) -> fx.GraphModule:
    """Trace `function` on fake `values` to a graph of decomposed aten ops, each node with meta["val"]."""
    with mode, torch.no_grad():
        return make_fx(function, decomposition_table=inductor_decompositions(), tracing_mode="real")(*values)
