"""torch._inductor's Triton: what is decoded is summed along rows and along columns by two kernels, not by one.

Inductor makes one of both where they read the same. What it reads element by element, as tiles' scales, crosses shared
memory there for every row: on an H100 the backward of a ViT-S's layer norm took 142 us, and 45 us with nothing coded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

from torch import fx


@contextlib.contextmanager
def sums_apart(half: fx.GraphModule, ours: Collection[Any]) -> Iterator[None]:
    """Inductor inside does, if `half` decodes with one of `ours`. For one compile at a time."""
    from torch._inductor import config

    decodes = any(node.target in ours and "dequantize" in str(node.target) for node in half.graph.nodes)
    with config.patch({"triton.mix_order_reduction": False}) if decodes else contextlib.nullcontext():
        yield
