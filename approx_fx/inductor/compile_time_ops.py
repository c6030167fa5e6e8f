"""Ops that exist between our post-grad passes and Inductor's lowering alone: they say how a value is to be written.

    materialize(x, readers)           x, written to memory or computed by each reader, see `materialize`
    upcast(x, dtype, readers)         x as another dtype, by each reader where one of both has to be in memory

Each is a torch.library op with the meaning of its aten counterpart, so that torch's passes can evaluate it on fake
tensors; `lowering` registers what Inductor makes of them.
"""

from __future__ import annotations

import torch

_LIBRARY = torch.library.Library("approx_fx_inductor", "DEF")
_LIBRARY.define("materialize(Tensor x, int readers) -> Tensor")
_LIBRARY.define("upcast(Tensor x, ScalarType dtype, int readers) -> Tensor")
_LIBRARY.impl("materialize", lambda x, readers: x.clone(), "CompositeExplicitAutograd")
_LIBRARY.impl("upcast", lambda x, dtype, readers: x.to(dtype), "CompositeExplicitAutograd")

MATERIALIZE = torch.ops.approx_fx_inductor.materialize.default
UPCAST = torch.ops.approx_fx_inductor.upcast.default
