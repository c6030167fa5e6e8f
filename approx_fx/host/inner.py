"""torch._inductor's Triton: a reduction along what lies side by side is one, wherever in memory it begins.

Inductor holds a row in registers, and so reads it once, where it sees that the row's elements are neighbours. It looks
at the index alone, and does not see it behind an offset, as the second of two parts has that share bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any
from unittest import mock

from torch import fx


def side_by_side(node: Any) -> bool:
    """Whether all that a scheduler's node reads is read in the order of memory, from anywhere on."""
    from torch._inductor.dependencies import MemoryDep

    reads = [dep for dep in node.read_writes.reads if isinstance(dep, MemoryDep)]
    return len(reads) == len(node.read_writes.reads) > 0 and all(
        dep.index - dep.get_offset() in dep.var_names for dep in reads
    )


@contextlib.contextmanager
def offsets_seen_through(half: fx.GraphModule, ours: Collection[Any]) -> Iterator[None]:
    """Inductor inside does, if `half` calls one of `ours`. For one compile at a time."""
    from torch._inductor.codegen.simd_kernel_features import SIMDKernelFeatures
    from torch._inductor.runtime.hints import ReductionHint

    if not any(node.target in ours for node in half.graph.nodes):
        yield
        return
    theirs = SIMDKernelFeatures.reduction_hint

    def reduction_hint(node: Any) -> Any:
        hint = theirs(node)
        return ReductionHint.INNER if hint == ReductionHint.DEFAULT and side_by_side(node) else hint

    with mock.patch.object(SIMDKernelFeatures, "reduction_hint", staticmethod(reduction_hint)):
        yield
