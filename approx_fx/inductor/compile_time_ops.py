"""Ops that exist between our post-grad passes and Inductor's lowering alone: they say how a value is to be written.

    materialize(x, readers)           x, written to memory or computed by each reader, see `materialize`
    upcast(x, dtype, readers)         x as another dtype, by each reader where one of both has to be in memory

Each is a torch.library op with the meaning of its aten counterpart, so that torch's passes can evaluate it on fake
tensors; the lowerings are registered once.
"""

from __future__ import annotations

from functools import lru_cache

import torch

_LIBRARY = torch.library.Library("approx_fx_inductor", "DEF")
_LIBRARY.define("materialize(Tensor x, int readers) -> Tensor")
_LIBRARY.define("upcast(Tensor x, ScalarType dtype, int readers) -> Tensor")
_LIBRARY.impl("materialize", lambda x, readers: x.clone(), "CompositeExplicitAutograd")
_LIBRARY.impl("upcast", lambda x, dtype, readers: x.to(dtype), "CompositeExplicitAutograd")

MATERIALIZE = torch.ops.approx_fx_inductor.materialize.default
UPCAST = torch.ops.approx_fx_inductor.upcast.default


@lru_cache(1)
def register_lowerings() -> None:
    """Tell Inductor, once a process, how these ops are lowered."""
    from torch._inductor.lowering import register_lowering

    from .materialize import lower_materialize, lower_upcast

    for op, lower in ((MATERIALIZE, lower_materialize), (UPCAST, lower_upcast)):
        register_lowering(op, type_promotion_kind=None)(lower)
