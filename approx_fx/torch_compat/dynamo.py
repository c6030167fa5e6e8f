"""torch._dynamo: tracing a call apart from all else that Dynamo has compiled in the process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import CodeType, FunctionType
from typing import Any

_NUMBERS = itertools.count()


def _call(function: Any, args: Any) -> Any:
    return function(*args)


def trace_apart(function: Callable[..., Any], args: Sequence[Any], backend: Callable[..., Any]) -> None:
    """Call `function(*args)` compiled by `backend`, and leave Dynamo as it was: no other model compiles anew.

    Dynamo keeps compiled code, and the sizes that it has seen, with the code object of the outermost frame: that is one
    of this call's own. Frames that are compiled by themselves, behind a graph break, are forgotten again if nothing was
    compiled for them before.
    """
    import torch._dynamo
    from torch._dynamo import config

    code = _call.__code__.replace(co_name=f"traced_apart_{next(_NUMBERS)}")
    call = FunctionType(code, globals())
    before = set(_compiled_codes())
    with config.patch(automatic_dynamic_shapes=False):
        try:
            torch.compile(call, backend=backend, dynamic=False)(function, args)
        finally:
            for other in _compiled_codes():
                if other not in before:
                    torch._C._dynamo.eval_frame.reset_code(other)


def _compiled_codes() -> list[CodeType]:
    """The code objects that Dynamo has met as frames of their own, as far as they are alive."""
    from torch._dynamo.convert_frame import input_codes

    return [code for reference in input_codes.seen if (code := reference()) is not None]
