"""`define` registers an op with its schema, reference and fake implementation; `OPS` is the table of all ops.

The reference is plain torch code. It runs on every device that has no kernel of its own, Inductor lowers the op by it,
and kernels are tested against it bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

NAMESPACE = "approx_fx"


@dataclass(frozen=True)
class Op:
    """One op of this package. reference: plain torch code that computes it. definition: torch's custom op object.

    kind: 'encode'; 'decode' for a decoder of values; 'mask' for a decoder of a mask; '' for any other op, which
    computes scales or works on decoded values.
    exact: whether a decoder restores the original bit for bit. fused_only: never run as a kernel of its own, because
    it would read and write the same memory as its neighbours.
    """

    name: str
    reference: Callable[..., Any]
    definition: Any
    kind: str = ""
    exact: bool = False
    fused_only: bool = False

    @property
    def overload(self) -> torch._ops.OpOverload:
        """The node target, `torch.ops.approx_fx.<name>.default`."""
        return getattr(getattr(torch.ops, NAMESPACE), self.name).default


OPS: dict[str, Op] = {}


def define(
    fake: Callable[..., Any], kind: str = "", exact: bool = False, fused_only: bool = False
) -> Callable[[Callable[..., Any]], Op]:
    """Register the decorated function as the reference of `torch.ops.approx_fx.<function name>`; see `Op`.

    fake: the same signature; returns empty tensors with the outputs' shapes, strides and dtypes, for tracing.
    """

    def register(reference: Callable[..., Any]) -> Op:
        name = reference.__name__
        definition = torch.library.custom_op(f"{NAMESPACE}::{name}", reference, mutates_args=())
        definition.register_fake(fake)
        OPS[name] = Op(name, reference, definition, kind, exact, fused_only)
        return OPS[name]

    return register


def op_of(target: Any) -> Op | None:
    """The entry of `OPS` that a node's target is, or None for any other target."""
    if isinstance(target, torch._ops.OpOverload) and target.namespace == NAMESPACE:
        return OPS.get(target._schema.name.split("::")[1])
    return None


def reference_of(target: Any) -> Callable[..., Any] | None:
    """The reference of a node's target, or None if the target is not in `OPS`."""
    op = op_of(target)
    return op.reference if op is not None else None


def approximates(target: Any) -> bool:
    """Whether a node's target is a decoder in `OPS` that restores its value only approximately."""
    op = op_of(target)
    return op is not None and op.kind == "decode" and not op.exact
