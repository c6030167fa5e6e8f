"""Vectorized conversions and loads of uint8 codes in Inductor's C++, where ATen goes element by element.

A loop that reads or writes a 16-bit float handles two vectors of float32 per step. ATen has no vectorized conversion of
codes for two vectors: it stores them, converts one element after the other, and loads the result, which takes nine
times as long as all of the decoding. Here its conversion of a single vector is used twice; the numbers are the same.

A loop over one or two AVX2 vectors of eight floats reads eight or sixteen codes. ATen copies them to 32 bytes on the
stack and loads all 32, which stalls on the stores before it; here they are loaded and converted within a register.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

AVX2 = "VecAVX2"
# (from, to) -> C++ for result vector i, of n elements: v is the source, b a stack buffer that holds v's codes
CONVERT_ONE = {
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
STORE = "alignas(64) uint8_t b[at::vec::Vectorized<uint8_t>::size()]; v.store(b); "
# AVX2: two vectors of int32 from the sixteen codes in a vector's lower half, without a store and a load.
U8X16_TO_I32X2 = (
    "[](const at::vec::Vectorized<uint8_t>& v) { const __m128i q = _mm256_castsi256_si128(v); "
    "at::vec::VectorizedN<int32_t,2> r; r[0] = at::vec::Vectorized<int32_t>(_mm256_cvtepu8_epi32(q)); "
    "r[1] = at::vec::Vectorized<int32_t>(_mm256_cvtepu8_epi32(_mm_srli_si128(q, 8))); return r; }"
)


def convert_expr(
    source: str, source_dtype: torch.dtype, result_dtype: torch.dtype, vectors: tuple[int, int], isa: str = ""
) -> str | None:
    """C++ that converts `source`, vectors[0] vectors of a dtype, to vectors[1] of another; None to use ATen's.

    isa: name of Inductor's class for the instruction set.
    """
    convert_one, (before, after) = CONVERT_ONE.get((source_dtype, result_dtype)), vectors
    if convert_one is None or after == 1 or before != (1 if source_dtype == torch.uint8 else after):
        return None
    if isa == AVX2 and source_dtype == torch.uint8 and after == 2:
        return f"{U8X16_TO_I32X2}({source})"
    name = "float" if result_dtype == torch.float32 else "int32_t"
    return (
        f"[](const auto& v) {{ constexpr int n = at::vec::Vectorized<{name}>::size(); (void)n; "
        f"{STORE if source_dtype == torch.uint8 else ''}at::vec::VectorizedN<{name},{after}> r; "
        f"for (int i = 0; i < {after}; ++i) r[i] = {convert_one}; return r; }}({source})"
    )


def load_expr(line: str, isa: str) -> str:
    """Inductor's C++ `line`, with loads of codes through a stack buffer replaced. isa: see `convert_expr`."""
    if isa != AVX2:
        return line
    for pattern, short in SHORT_LOADS:
        line = pattern.sub(short, line)
    return line


def converts_codes(original: Callable[..., Any]) -> Callable[..., Any]:
    """`CppVecKernel.get_to_dtype_expr` that uses `convert_expr` where that applies. original: torch's."""

    def get_to_dtype_expr(self: Any, src: Any, dtype: torch.dtype, src_dtype: torch.dtype, *args: Any, **o: Any) -> Any:
        expression = None
        if src.is_vec:
            vectors = self._get_num_vectors(src_dtype), self._get_num_vectors(dtype)
            isa = type(self.vec_isa).__name__
            expression = convert_expr(str(src), src_dtype, dtype, vectors, isa)
            expression = expression and load_expr(expression, isa)
        return expression or original(self, src, dtype, src_dtype, *args, **o)

    return get_to_dtype_expr


def loads_codes(original: Callable[..., Any]) -> Callable[..., Any]:
    """`CppVecKernel._get_vec_load_line` with its result passed through `load_expr`. original: torch's."""

    def get_vec_load_line(self: Any, *args: Any, **options: Any) -> Any:
        return load_expr(original(self, *args, **options), type(self.vec_isa).__name__)

    return get_vec_load_line
