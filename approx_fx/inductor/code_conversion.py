"""torch._inductor's C++: what ATen does element by element, or through memory, where there are instructions for it.

A loop that reads or writes a 16-bit float takes two vectors of float32 a step. For codes ATen then has no conversion of
its own: it stores the vectors, converts one element after the other, and loads them, at nine times the whole decoding's
time. It has one for a single vector, which gives the same numbers.

A loop over eight floats, AVX2's vector, or two such, reads eight codes or sixteen. ATen fills 32 bytes, copies codes
over them and loads the whole: that load waits for the stores before it. With AVX-512 it has a short load, and takes it.
On AVX2 sixteen codes stay in a register on their way to int32, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

AVX2 = "VecAVX2"
# (from, to) -> the vector `i` of `n` elements, of the vectors `v` stored at `b`
EACH = {
    (torch.int32, torch.float32): "at::vec::convert<float>(v[i])",
    (torch.uint8, torch.int32): "at::vec::convert<int32_t>(at::vec::Vectorized<uint8_t>::loadu(b + i * n, n))",
}
LOAD = r"at::vec::Vectorized<uint8_t>::loadu\((.*), (?:static_cast<int64_t>\({count}\)|{name})\)"
# AVX2: n, the length of a vector of float32 or int32, is 8.
SHORT_LOADS = (
    (re.compile(LOAD.format(count=8, name="n")), r"at::vec::Vectorized<uint8_t>::loadu_one_fourth(\1)"),
    (
        re.compile(LOAD.format(count=16, name="2n")),
        r"at::vec::Vectorized<uint8_t>(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)(\1))))",
    ),
)
STORED = "alignas(64) uint8_t b[at::vec::Vectorized<uint8_t>::size()]; v.store(b); "
# AVX2: two vectors of int32 from the sixteen codes in a vector's lower half, without the way through memory.
PAIR = (
    "[](const at::vec::Vectorized<uint8_t>& v) { const __m128i q = _mm256_castsi256_si128(v); "
    "at::vec::VectorizedN<int32_t,2> r; r[0] = at::vec::Vectorized<int32_t>(_mm256_cvtepu8_epi32(q)); "
    "r[1] = at::vec::Vectorized<int32_t>(_mm256_cvtepu8_epi32(_mm_srli_si128(q, 8))); return r; }"
)


def convert_expr(
    source: str, given: torch.dtype, wanted: torch.dtype, vectors: tuple[int, int], isa: str = ""
) -> str | None:
    """C++ for `source`, vectors[0] vectors of dtype `given`, as vectors[1] of `wanted`; None where ATen's is used.

    isa: Inductor's class of the instructions at hand.
    """
    each, (before, after) = EACH.get((given, wanted)), vectors
    if each is None or after == 1 or before != (1 if given == torch.uint8 else after):
        return None
    if isa == AVX2 and given == torch.uint8 and after == 2:
        return f"{PAIR}({source})"
    name = "float" if wanted == torch.float32 else "int32_t"
    return (
        f"[](const auto& v) {{ constexpr int n = at::vec::Vectorized<{name}>::size(); (void)n; "
        f"{STORED if given == torch.uint8 else ''}at::vec::VectorizedN<{name},{after}> r; "
        f"for (int i = 0; i < {after}; ++i) r[i] = {each}; return r; }}({source})"
    )


def load_expr(line: str, isa: str) -> str:
    """C++ that loads codes, `line` as Inductor writes it, without the way through memory. isa: Inductor's class."""
    if isa != AVX2:
        return line
    for pattern, short in SHORT_LOADS:
        line = pattern.sub(short, line)
    return line


def converts_codes(original: Callable[..., Any]) -> Callable[..., Any]:
    """`CppVecKernel.get_to_dtype_expr`, with the conversions above."""

    def get_to_dtype_expr(self: Any, src: Any, dtype: torch.dtype, src_dtype: torch.dtype, *rest: Any, **o: Any) -> Any:
        ours = None
        if src.is_vec:
            vectors = self._get_num_vectors(src_dtype), self._get_num_vectors(dtype)
            isa = type(self.vec_isa).__name__
            ours = convert_expr(str(src), src_dtype, dtype, vectors, isa)
            ours = ours and load_expr(ours, isa)
        return ours or original(self, src, dtype, src_dtype, *rest, **o)

    return get_to_dtype_expr


def loads_codes(original: Callable[..., Any]) -> Callable[..., Any]:
    """`CppVecKernel._get_vec_load_line`, with the loads above."""

    def get_vec_load_line(self: Any, *args: Any, **options: Any) -> Any:
        return load_expr(original(self, *args, **options), type(self.vec_isa).__name__)

    return get_vec_load_line
