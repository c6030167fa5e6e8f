"""torch._inductor's C++: means and variances of channels that lie innermost in memory, several vectors at a time.

Inductor's loop takes one vector of channels through all positions, then the next: each line of memory is fetched for
each vector in it, and each step waits for the last. Here up to 128 bytes of channels go at once. Each channel's
arithmetic, and its order, are the same: so is every bit of the result. ATen's long vectors are arrays, which the
compiler keeps in memory: `STEP` is `welford_combine` of torch's cpp_prefix.h, vector by vector, in registers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch

INCLUDE = "#include <torch/csrc/inductor/cpp_prefix.h>\n"
USED = "WelfordHelper<at::vec::VectorizedN<float,"
LANES = 32  # of float32: two lines of memory
PARALLEL = 300  # threads share a sum that has so many times the steps of the loops around it
STEP = """
template <int N, uint64_t K>
__attribute__((noinline)) Welford<at::vec::VectorizedN<float, N>> welford_chunk(
    Welford<at::vec::VectorizedN<float, N>> acc, WelfordHelper<at::vec::VectorizedN<float, N>, K>* w) {
  using T = at::vec::VectorizedN<float, N>;
  w->welford_stk[0] = welford_combine(w->welford_stk[0], acc);
  w->num_chunks += 1;
  uint64_t mask = w->num_chunks;
  for (uint64_t j = 1; j < w->depth && (mask & 1) == 0; ++j) {
    w->welford_stk[j] = welford_combine(w->welford_stk[j], w->welford_stk[j - 1]);
    w->welford_stk[j - 1] = Welford<T>();
    mask >>= 1;
  }
  return Welford<T>{T(0), T(0), T(0), 0};
}
template <int N, uint64_t K>
inline __attribute__((always_inline)) Welford<at::vec::VectorizedN<float, N>> welford_combine(
    Welford<at::vec::VectorizedN<float, N>>& acc, at::vec::VectorizedN<float, N>& data,
    WelfordHelper<at::vec::VectorizedN<float, N>, K>* w) {
  using V = at::vec::Vectorized<float>;
  if (w->depth > 0 && acc.index == K) acc = welford_chunk<N, K>(acc, w);
  const bool known = acc.index < w->weight_recps.size();
  const V inverse(known ? w->weight_recps[acc.index] : 0.0f);
  Welford<at::vec::VectorizedN<float, N>> result;
  result.index = acc.index + 1;
  #pragma GCC unroll 8
  for (int k = 0; k < N; ++k) {
    const V weight = acc.weight[k] + V(1.0f), delta = data[k] - acc.mean[k];
    const V mean = acc.mean[k] + (known ? delta * inverse : delta / weight);
    result.mean[k] = mean;
    result.m2[k] = acc.m2[k] + delta * (data[k] - mean);
    result.weight[k] = weight;
  }
  return result;
}
"""


def lanes(kept: Sequence[int], steps: int, base: int, threads: int) -> int:
    """How many channels to take at once, `base`, a vector's, or a multiple of it.

    kept: sizes of the loops around a sum, the channels' last; steps: of the first of its own. All threads stay busy.
    Whether they share a sum, which is then added up in parts, or the channels, must be as with `base`. In between, that
    depends on what is fused with it: with the same steps, Inductor puts what it does with the sums into the same loop.
    """
    whole = math.prod(kept)
    for count in (LANES, LANES // 2):
        blocks = whole // count
        if count <= base or kept[-1] % count:
            continue
        sums_shared = whole * PARALLEL < steps
        channels_shared = blocks * PARALLEL >= steps and (blocks % threads == 0 or blocks >= 4 * threads)
        if sums_shared or channels_shared:
            return count
    return base


def statistics_only(body: Any) -> bool:
    """Whether a loop body works out means and variances, of float32 values alone."""
    from torch._inductor.virtualized import V

    nodes = body.root_block.graph.nodes
    sums = [node.args[1:4] for node in nodes if node.target == "reduction"]
    read = {V.graph.get_dtype(node.args[1]) for node in nodes if node.target == "load"}
    plain = not body.subblocks and read == {torch.float32}
    return plain and bool(sums) and all(own == (torch.float32, torch.float32, "welford_reduce") for own in sums)


@contextlib.contextmanager
def wide_statistics() -> Iterator[None]:
    """Inductor inside writes these loops so. For one compile at a time."""
    from torch._inductor.codegen.cpp import KernelGroup, TilingSelect
    from torch._inductor.codegen.cpp_utils import _get_loop_body
    from torch._inductor.utils import parallel_num_threads

    select, write = TilingSelect.select_tiling, KernelGroup.codegen_group

    def select_tiling(self: Any, functions: Sequence[Any], sizes: Sequence[Any]) -> Any:
        chosen = select(self, functions, sizes)
        kept, summed = max(sizes, key=lambda own: len(own[1]))
        outer = summed and list(chosen[1]) == [len(kept) - 1]
        known = all(getattr(size, "is_number", True) for size in (*kept, *summed))
        if not outer or not known or not all(map(statistics_only, _get_loop_body(functions))):
            return chosen
        count = lanes(list(map(int, kept)), int(summed[0]), chosen[0][0], parallel_num_threads())
        return [count], *chosen[1:]

    def codegen_group(self: Any, name: str | None = None) -> str:
        code: str = write(self, name)
        return code.replace(INCLUDE, INCLUDE + STEP, 1) if USED in code else code

    with (
        mock.patch.object(TilingSelect, "select_tiling", select_tiling),
        mock.patch.object(KernelGroup, "codegen_group", codegen_group),
    ):
        yield
