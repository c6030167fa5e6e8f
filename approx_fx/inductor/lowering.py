"""torch._inductor.lowering: each op of ours is lowered to Inductor's IR by its own reference, registered once.

Traced to aten, one op is 20 to 40 nodes, and every pass over a graph, and the lowering, do their work for each. Here
the reference is called on `IRTensor`s instead.

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
    """What a reference computes, as Inductor's IR; tensors among the arguments are Inductor's TensorBoxes."""
    from torch._inductor.ir import TensorBox

    def stand_in(item: Any) -> Any:
        return IRTensor(item, functions) if isinstance(item, TensorBox) else item

    return tree_map(box_of, reference(*map(stand_in, args), **{name: stand_in(v) for name, v in options.items()}))


@lru_cache(1)
def register_lowerings() -> None:
    """Tell Inductor, once a process, how our ops are lowered; no op of torch's is touched."""
    from torch._inductor import lowering

    def lowering_of(reference: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: lower_reference(reference, args, options, FUNCTIONS)

    for op in OPS.values():
        lowering.register_lowering(op.overload, type_promotion_kind=None)(lowering_of(op.reference))
        lowering.add_layout_constraint(op.overload, _kernel_layout)
    for compile_time_op, lower in ((MATERIALIZE, lower_materialize), (UPCAST, lower_upcast)):
        lowering.register_lowering(compile_time_op, type_promotion_kind=None)(lower)


def _kernel_layout(node: fx.Node, *args: Any, **options: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A kernel gets its arguments in the strides of the graph; what is lowered takes them in any."""
    from torch._inductor.lowering import constrain_to_fx_strides

    if "should_fallback" in node.meta:
        args, options = constrain_to_fx_strides(node, *args, **options)
    return args, options
