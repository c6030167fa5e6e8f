"""A half that Inductor, or Triton behind it, can't compile runs op by op: slower, and with the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from .lazy import copied


def or_op_by_op(half: fx.GraphModule, compiled: Callable[[], Any], say: Callable[[Exception], None]) -> Any:
    """What `compiled` returns, or the half itself, boxed, if it raises. say: gets to know why.

    The half is copied first: a compile changes it.
    """
    from functorch.compile import make_boxed_func

    spare = copied(half)
    try:
        return compiled()
    except Exception as error:
        say(error)
        return make_boxed_func(spare.forward)
