"""The step count that keys stochastic rounding: the forward calls a model has had, which can be saved and restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from .errors import ApproxFxError
from .ops.stochastic import at_step
from .report.runs import first_parameter


@dataclass
class Steps:
    """The number of calls so far of the compiled graphs that share it. was_used: some of them were in this process."""

    count: int = 0
    was_used: bool = False


# converted module, or a graph's first parameter where none was converted -> the steps of the graphs
_steps: WeakIdKeyDictionary = WeakIdKeyDictionary()


def count_steps(compiled: Callable[..., Any], owners: Callable[[], Sequence[nn.Module]]) -> Callable[..., Any]:
    """Wrap a compiled graph so that each call counts as one step and rounds with that step's random numbers.

    owners: the modules converted by it.
    """

    def call(*args: Any) -> Any:
        keys = [*owners(), *first_parameter(args)]
        steps = _steps.setdefault(keys[0], Steps()) if keys else Steps()
        step, steps.count, steps.was_used = steps.count, steps.count + 1, True
        with at_step(step):
            return compiled(*args)

    return call


def rounding_state(model: nn.Module) -> dict[str, Any]:
    """The state that stochastic rounding needs to continue; save it beside the model's and the optimizer's state.

    "step": the number of calls; "calls": those of each module or parameter by name, where they differ.
    """
    all_steps = {name: _steps[owner] for name, owner in _named(model) if owner in _steps}
    used = {name: steps.count for name, steps in all_steps.items() if steps.was_used}
    counts = used or {name: steps.count for name, steps in all_steps.items()}
    state: dict[str, Any] = {"step": max(counts.values(), default=0)}
    return state if len(set(counts.values())) <= 1 else {**state, "calls": counts}


def load_rounding_state(model: nn.Module, state: dict[str, Any]) -> None:
    """Restore what `rounding_state` returned. Raises ApproxFxError if `state` is anything else."""
    calls = state.get("calls", {}) if isinstance(state, dict) else None
    is_state = isinstance(calls, dict) and {"step"} <= set(state) <= {"step", "calls"}
    if not is_state or not all(isinstance(count, int) for count in (state["step"], *calls.values())):  # type: ignore[union-attr]
        raise ApproxFxError(f"{state!r} is no rounding state: give what approx_fx.rounding_state(model) returned.")
    for name, owner in _named(model):
        _steps[owner] = Steps(state["calls"].get(name, state["step"]) if "calls" in state else state["step"])


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    yield from model.named_modules()
    yield from model.named_parameters()
