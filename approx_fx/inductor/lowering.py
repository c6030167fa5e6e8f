"""Inductor lowerings of our ops: each op's reference is called on `IRTensor`s and yields Inductor's IR.

Traced to aten, one op would be 20 to 40 nodes, for each of which every graph pass, and the lowering, take time.

A node that carries torch's own mark "should_fallback" is not lowered: it runs as the op's kernel (`lowering="kernel"`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from torch import fx
from torch.utils._pytree import tree_map

from ..ops import OPS
from .compile_time_ops import MATERIALIZE, UPCAST
from .ir_tensor import FUNCTIONS, Functions, IRTensor, box_of
from .materialize import lower_materialize, lower_upcast


def lower_reference(
    reference: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any], functions: Functions
) -> Any:
    """Call a reference on Inductor's TensorBoxes, and return its results as TensorBoxes. functions: see `IRTensor`."""
    from torch._inductor.ir import TensorBox

    def stand_in(item: Any) -> Any:
        return IRTensor(item, functions) if isinstance(item, TensorBox) else item

    return tree_map(box_of, reference(*map(stand_in, args), **{name: stand_in(v) for name, v in options.items()}))


@lru_cache(1)
def register_lowerings() -> None:
    """Register the lowerings of our ops with Inductor, once per process. No op of torch's is changed."""
    from torch._inductor import lowering

    def lowering_of(reference: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: lower_reference(reference, args, options, FUNCTIONS)

    for op in OPS.values():
        lowering.register_lowering(op.overload, type_promotion_kind=None)(lowering_of(op.reference))
        lowering.add_layout_constraint(op.overload, _kernel_layout)
    for compile_time_op, lower in ((MATERIALIZE, lower_materialize), (UPCAST, lower_upcast)):
        lowering.register_lowering(compile_time_op, type_promotion_kind=None)(lower)


def _kernel_layout(node: fx.Node, *args: Any, **options: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Layout constraint: an op that runs as a kernel gets its arguments in the traced strides; a lowered one in any."""
    from torch._inductor.lowering import constrain_to_fx_strides

    if "should_fallback" in node.meta:
        args, options = constrain_to_fx_strides(node, *args, **options)
    return args, options
