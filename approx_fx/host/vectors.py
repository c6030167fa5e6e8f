"""torch._inductor's C++: conversions of several vectors at once, which ATen does element by element, vector by vector.

A loop that reads or writes a 16-bit float takes two vectors of float32 a step. For codes ATen then has no conversion of
its own: it stores the vectors, converts one element after the other, and loads them, at nine times the whole decoding's
time. It has one for a single vector, which gives the same numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

# (from, to) -> the vector `i` of `n` elements, of the vectors `v` stored at `b`
EACH = {
    (torch.int32, torch.float32): "at::vec::convert<float>(v[i])",
    (torch.uint8, torch.int32): "at::vec::convert<int32_t>(at::vec::Vectorized<uint8_t>::loadu(b + i * n, n))",
}
STORED = "alignas(64) uint8_t b[at::vec::Vectorized<uint8_t>::size()]; v.store(b); "


def converted(source: str, given: torch.dtype, wanted: torch.dtype, vectors: tuple[int, int]) -> str | None:
    """C++ for `source`, vectors[0] vectors of dtype `given`, as vectors[1] of `wanted`; None where ATen's is used."""
    each, (before, after) = EACH.get((given, wanted)), vectors
    if each is None or after == 1 or before != (1 if given == torch.uint8 else after):
        return None
    name = "float" if wanted == torch.float32 else "int32_t"
    return (
        f"[](const auto& v) {{ constexpr int n = at::vec::Vectorized<{name}>::size(); (void)n; "
        f"{STORED if given == torch.uint8 else ''}at::vec::VectorizedN<{name},{after}> r; "
        f"for (int i = 0; i < {after}; ++i) r[i] = {each}; return r; }}({source})"
    )


@contextlib.contextmanager
def converting() -> Iterator[None]:
    """Inductor inside writes these conversions. For one compile at a time."""
    from torch._inductor.codegen.cpp import CppVecKernel

    theirs = CppVecKernel.get_to_dtype_expr

    def expression(self: Any, src: Any, dtype: torch.dtype, src_dtype: torch.dtype, *rest: Any, **options: Any) -> Any:
        mine = None
        if src.is_vec:
            vectors = self._get_num_vectors(src_dtype), self._get_num_vectors(dtype)
            mine = converted(str(src), src_dtype, dtype, vectors)
        return mine or theirs(self, src, dtype, src_dtype, *rest, **options)

    with mock.patch.object(CppVecKernel, "get_to_dtype_expr", expression):
        yield
