"""torch._dynamo: trace one call without affecting what Dynamo has compiled in the process."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

import torch

from .dispatch_modes import undispatched

_NUMBERS = itertools.count()


def _call(function: Any, args: Any, kwargs: Any) -> Any:
    return function(*args, **kwargs)


def trace_in_isolation(
    function: Callable[..., Any],
    args: Sequence[Any],
    backend: Callable[..., Any],
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Call `function(*args, **kwargs)` compiled by `backend`, without a trace in Dynamo's state: no other model is
    recompiled. Returns the result.

    Dynamo stores compiled code and observed sizes with the code object of the outermost frame, so this call gets a code
    object of its own. Frames behind a graph break are compiled separately; those that had no compiled code before are
    reset afterwards.
    """
    import torch._dynamo
    from torch._dynamo import config

    code = _call.__code__.replace(co_name=f"traced_apart_{next(_NUMBERS)}")
    call = FunctionType(code, globals())
    codes_before = set(_compiled_codes())
    with config.patch(automatic_dynamic_shapes=False, allow_rnn=True, **_without_notes()):
        try:
            return torch.compile(call, backend=backend, dynamic=False)(function, args, dict(kwargs or {}))
        finally:
            for compiled_code in _compiled_codes():
                if compiled_code not in codes_before:
                    torch._C._dynamo.eval_frame.reset_code(compiled_code)


def traced_more(function: Callable[..., Any], recurrent: bool) -> Callable[..., Any]:
    """A function in whose calls Dynamo goes on where it usually breaks the graph.

    That is at notes that are logged once, and, if `recurrent`, at nn.LSTM, nn.GRU and nn.RNN, traced as one op each.

    The function itself is then called, not traced, where compiled code comes upon it.
    """
    import torch._dynamo
    from torch._dynamo import config

    if recurrent and torch.__version__ < (2, 13):  # type: ignore[operator]  # else it traces pad_packed_sequence, and fails
        torch._dynamo.disallow_in_graph(torch._VF._pad_packed_sequence)
    settings = {**_without_notes(), **({"allow_rnn": True} if recurrent else {})}
    return torch.compiler.disable(config.patch(**settings)(function)) if settings else function


def _without_notes() -> dict[str, Any]:
    """Settings by which notes of transformers' `logger.warning_once` break no graph; empty if there are none."""
    from torch._dynamo import config

    name = next((n for n in ("ignore_logging_functions", "ignore_logger_methods") if hasattr(config, n)), None)
    if name is None:
        return {}
    methods = {getattr(logging.Logger, method, None) for method in ("warning_once", "info_once")} - {None}
    return {name: {*getattr(config, name), *methods}} if methods else {}


def _compiled_codes() -> list[CodeType]:
    """The code objects of all frames that Dynamo has compiled and that are still alive."""
    from torch._dynamo.convert_frame import input_codes

    return [code for reference in input_codes.seen if (code := reference()) is not None]


@dataclass
class GraphBreaks:
    """The reasons for which Dynamo leaves code uncompiled within its `with` blocks, each reason's first line, in order.

    torch counts them for the whole process: those of other models are told apart by what is counted meanwhile.
    """

    reasons: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> None:
        """Remember how often each reason has been counted before the block."""
        self.counts = self._counted()

    def __exit__(self, *_: object) -> None:
        """Keep the reasons that were counted in the block."""
        counted = (text for text, count in self._counted().items() if count > self.counts.get(text, 0))
        self.reasons += [line for text in counted if (line := str(text).strip().partition("\n")[0])]

    @staticmethod
    def _counted() -> dict[str, int]:
        from torch._dynamo.utils import counters

        return dict(counters["graph_break"])


def _has_data(value: Any) -> bool:
    """Return True for a real tensor, False for a FakeTensor and for a value that is no tensor."""
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor)


@dataclass(frozen=True)
class TracedContext:
    """What Dynamo knows of the graph that it is compiling: its fake tensors, symbolic sizes and parameters.

    With it the same graph can be compiled once more, outside Dynamo.
    """

    tracing: Any

    @classmethod
    def current(cls) -> TracedContext:
        """The context of the compile that is going on, which may be none."""
        return cls(torch._guards.TracingContext.try_get())

    def renewed(self) -> TracedContext:
        """A context with the same fake tensors in which a compile leaves nothing for the one that is going on."""
        mode = getattr(self.tracing, "fake_mode", None)
        return TracedContext(torch._guards.TracingContext(mode))

    def without_data(self, inputs: Sequence[Any]) -> list[Any]:
        """The graph's inputs as the fake tensors that stood for them in a compile that has just ended."""
        mode = getattr(self.tracing, "fake_mode", None)
        if mode is None:
            return list(inputs)
        return [mode.from_tensor(item) if _has_data(item) else item for item in inputs]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Context in which the graph can be compiled again; the random generators' states are kept."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices), torch._guards.tracing(self.tracing), undispatched():
            yield
