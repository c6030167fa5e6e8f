"""torch._inductor.codegen.cpp: the scalar form of a C++ kernel is not written out where it is not used.

Inductor writes each kernel's loop bodies element by element first, and then in vectors, and for the tails in masked
vectors. The scalar form settles what the kernel reads, writes and sums; its text is used where there are no vectors, or
where a masked tail would not pay. Elsewhere its arithmetic is skipped here: no line of the kernel is another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch

# What touches memory or settles a loop's form: done in every form of a kernel.
KEPT = frozenset({"output", "load", "store", "store_reduction", "reduction", "index_expr"})
# What computes one element from others, and no more.
SKIPPED = frozenset({
    "abs", "add", "and_", "bitwise_and", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor",
    "ceil", "constant", "eq", "erf", "exp", "floor", "ge", "gt", "le", "log", "logical_and", "logical_not",
    "logical_or", "lt", "maximum", "minimum", "mul", "ne", "neg", "or_", "reciprocal", "relu", "round", "rsqrt",
    "sigmoid", "sqrt", "square", "sub", "tanh", "to_dtype", "truediv", "where",
})  # fmt: skip


def plain(body: Any) -> bool:
    """Whether a loop body does nothing but these."""
    return not body.subblocks and not body.indirect_vars and set(body.op_counts) <= KEPT | SKIPPED


def vectors_alone(chosen: Any) -> bool:
    """Whether, by Inductor's choice of tiles, a kernel's scalar form is used nowhere."""
    from torch._inductor import config

    if len(chosen) != 3 or not chosen[1] or not config.cpp.enable_loop_tail_vec:
        return False
    stats = chosen[2]
    masks = stats.mask_op_count + sum(stats.non_contig_indexing_op_counter.values())
    return bool(masks <= stats.OVERHEAD_RATIO_THRESHOLD * sum(stats.op_counter.values()))


def skimming() -> Any:
    """Inductor's handler at work, without arithmetic: its results are all the same variable."""
    from torch._inductor.ops_handler import WrapperHandler
    from torch._inductor.virtualized import V

    nothing = V.kernel.cse.newvar(dtype=torch.float32)

    class Skimming(WrapperHandler):
        def _default(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
            return nothing if name in SKIPPED else super()._default(name, args, options)

    return Skimming(V.get_ops_handler())


def skimmed(function: Callable[..., Any], scalar: type) -> Callable[..., Any]:
    """What writes a node's loop body, `function`, skims it in kernels of the class `scalar`."""
    from torch._inductor.virtualized import V

    def write(*ranges: Any) -> Any:
        if type(V.kernel) is not scalar:
            return function(*ranges)
        with V.set_ops_handler(skimming()):
            return function(*ranges)

    outer: Any = write
    outer.original_fn = getattr(function, "original_fn", function)  # where Inductor looks for the node
    return write


@contextlib.contextmanager
def scalars_skimmed() -> Iterator[None]:
    """Inductor inside skips that arithmetic. For one compile at a time."""
    from torch._inductor import config
    from torch._inductor.codegen.cpp import CppKernelProxy, TilingSelect
    from torch._inductor.codegen.cpp_utils import _get_loop_body
    from torch._inductor.scheduler import BaseSchedulerNode

    write, select = CppKernelProxy.codegen_functions, TilingSelect.select_tiling
    known: tuple[Any, Any] | None = None

    def codegen_functions(self: Any, functions: Sequence[Any], sizes: Sequence[Any]) -> None:
        nonlocal known
        named = all(hasattr(function, "original_fn") or hasattr(function, "func") for function in functions)
        loops = any(own or reduced for own, reduced in sizes)
        if self.picked_vec_isa and named and loops and all(map(plain, _get_loop_body(functions))):
            # Choosing runs each body once. What it writes gets its memory when it is written: in place if it can.
            with config.patch(inplace_buffers=False), mock.patch.object(BaseSchedulerNode, "mark_run", lambda _: None):
                chosen = select(TilingSelect(), functions, sizes)
            if vectors_alone(chosen):
                functions = [skimmed(function, self.kernel_cls) for function in functions]
            known = functions, chosen
        write(self, functions, sizes)

    def select_tiling(self: Any, functions: Any, sizes: Any) -> Any:
        return known[1] if known is not None and known[0] is functions else select(self, functions, sizes)

    ours = mock.patch.object(CppKernelProxy, "codegen_functions", codegen_functions)
    with ours, mock.patch.object(TilingSelect, "select_tiling", select_tiling):
        yield
