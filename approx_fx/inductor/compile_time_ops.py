"""Ops that exist only between our post-grad passes and Inductor's lowering, to control what is materialized.

    materialize(x, readers)           x itself, materialized or recomputed by each reader; see `materialize.py`
    upcast(x, dtype, readers)         x cast to dtype; if one must be materialized, then x, cast by each reader

readers: how many nodes read the result. Each op computes what its aten counterpart does, so that torch's passes can
evaluate it on fake tensors; `lowering.py` registers its lowering.
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
