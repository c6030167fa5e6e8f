"""torch._dynamo: trace one call without affecting what Dynamo has compiled in the process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import CodeType, FunctionType
from typing import Any

_NUMBERS = itertools.count()


def _call(function: Any, args: Any) -> Any:
    return function(*args)


def trace_in_isolation(function: Callable[..., Any], args: Sequence[Any], backend: Callable[..., Any]) -> None:
    """Call `function(*args)` compiled by `backend` and restore Dynamo's state: no other model is recompiled.

    Dynamo stores compiled code and observed sizes with the code object of the outermost frame, so this call gets a code
    object of its own. Frames behind a graph break are compiled separately; those that had no compiled code before are
    reset afterwards.
    """
    import torch._dynamo
    from torch._dynamo import config

    code = _call.__code__.replace(co_name=f"traced_apart_{next(_NUMBERS)}")
    call = FunctionType(code, globals())
    codes_before = set(_compiled_codes())
    with config.patch(automatic_dynamic_shapes=False):
        try:
            torch.compile(call, backend=backend, dynamic=False)(function, args)
        finally:
            for compiled_code in _compiled_codes():
                if compiled_code not in codes_before:
                    torch._C._dynamo.eval_frame.reset_code(compiled_code)


def _compiled_codes() -> list[CodeType]:
    """The code objects of all frames that Dynamo has compiled and that are still alive."""
    from torch._dynamo.convert_frame import input_codes

    return [code for reference in input_codes.seen if (code := reference()) is not None]
