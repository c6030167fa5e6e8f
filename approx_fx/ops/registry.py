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
    """One op: `reference` is plain torch code, `fake` computes the outputs' shapes and dtypes only."""

    name: str
    reference: Callable[..., Any]
    definition: Any

    @property
    def overload(self) -> torch._ops.OpOverload:
        """The node target, `torch.ops.approx_fx.<name>.default`."""
        return getattr(getattr(torch.ops, NAMESPACE), self.name).default


OPS: dict[str, Op] = {}


def define(fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Op]:
    """Register the decorated reference as `torch.ops.approx_fx.<its name>` with `fake` for tracing."""

    def register(reference: Callable[..., Any]) -> Op:
        name = reference.__name__
        definition = torch.library.custom_op(f"{NAMESPACE}::{name}", reference, mutates_args=())
        definition.register_fake(fake)
        OPS[name] = Op(name, reference, definition)
        return OPS[name]

    return register


def reference_of(target: Any) -> Callable[..., Any] | None:
    """The reference of a node target, or None if the target is not one of our ops in the table."""
    if isinstance(target, torch._ops.OpOverload) and target.namespace == NAMESPACE:
        op = OPS.get(target._schema.name.split("::")[1])
        return op.reference if op is not None else None
    return None
