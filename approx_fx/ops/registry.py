"""Defining an op: schema, reference and fake implementation in one place, and the table of all ops.

The reference is what every device without a kernel of its own runs, what Inductor gets inlined, and what kernels are
tested against bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

NAMESPACE = "approx_fx"


@dataclass(frozen=True)
class Op:
    """One op of ours. reference: plain torch code that says what it does.

    kind: 'encode', 'decode' a value, decode its 'mask', or '' for an op that prepares codes or computes with values.
    exact: whether what it decodes is the original, bit for bit. fused_only: as a kernel of its own it would read and
    write what its neighbours read and write.
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
    """Register the decorated reference as `torch.ops.approx_fx.<its name>`; see `Op`.

    fake: gives the outputs' shapes and dtypes for tracing.
    """

    def register(reference: Callable[..., Any]) -> Op:
        name = reference.__name__
        definition = torch.library.custom_op(f"{NAMESPACE}::{name}", reference, mutates_args=())
        definition.register_fake(fake)
        OPS[name] = Op(name, reference, definition, kind, exact, fused_only)
        return OPS[name]

    return register


def op_of(target: Any) -> Op | None:
    """Our op that a node's target is, or None for any other target."""
    if isinstance(target, torch._ops.OpOverload) and target.namespace == NAMESPACE:
        return OPS.get(target._schema.name.split("::")[1])
    return None


def reference_of(target: Any) -> Callable[..., Any] | None:
    """The reference of a node's target, or None if the target is not one of our ops."""
    op = op_of(target)
    return op.reference if op is not None else None


def approximates(target: Any) -> bool:
    """Whether a node's target is an op of ours that decodes an approximation."""
    op = op_of(target)
    return op is not None and op.kind == "decode" and not op.exact
