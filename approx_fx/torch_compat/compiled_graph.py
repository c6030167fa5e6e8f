"""torch._inductor.output_code: see the inputs of a compiled half before it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Hook = Callable[[Sequence[Any]], None]


def call_before(compiled: Any, hook: Hook) -> Any:
    """Make a compiled half call `hook` with the list of its inputs before each run; return the half.

    compiled: what Inductor returned, which is changed in place because torch caches it by what it is; or any boxed
    function. An exception of `hook` leaves the half without having run.
    """
    run = getattr(compiled, "current_callable", None)
    if run is None:

        def boxed(inputs: list[Any]) -> Any:
            hook(inputs)
            return compiled(inputs)

        boxed._boxed_call = True  # type: ignore[attr-defined]
        return boxed

    def with_hook(inputs: Sequence[Any]) -> Any:
        hook(inputs)
        return run(inputs)

    compiled.current_callable = with_hook
    return compiled
