"""The step count that keys stochastic rounding: the forward calls a model has had, which can be saved and restored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from .errors import ApproxFxError
from .ops.stochastic import at_step


@dataclass
class Steps:
    """The number of forward calls of one model so far."""

    count: int = 0


# parameter or converted module -> the steps of the model that it belongs to
_steps: WeakIdKeyDictionary = WeakIdKeyDictionary()


def steps_of(owners: Iterable[Any]) -> Steps:
    """The step count of the model that these parameters and modules belong to; a new model starts at 0."""
    keys = [item for item in owners if isinstance(item, (nn.Parameter, nn.Module))]
    steps = next((_steps[key] for key in keys if key in _steps), Steps())
    for key in keys:
        _steps.setdefault(key, steps)
    return steps


def count_steps(compiled: Callable[..., Any], steps: Steps) -> Callable[..., Any]:
    """Wrap a compiled function so that each call counts as one step and rounds with that step's random numbers."""

    def call(*args: Any) -> Any:
        step, steps.count = steps.count, steps.count + 1
        with at_step(step):
            return compiled(*args)

    return call


def rounding_state(model: nn.Module) -> dict[str, int]:
    """The state that stochastic rounding needs to continue; save it beside the model's and the optimizer's state."""
    return {"step": steps_of([*model.parameters(), *model.modules()]).count}


def load_rounding_state(model: nn.Module, state: dict[str, int]) -> None:
    """Restore what `rounding_state` returned. Raises ApproxFxError if `state` is anything else."""
    if not isinstance(state, dict) or set(state) != {"step"} or not isinstance(state["step"], int):
        raise ApproxFxError(f"{state!r} is no rounding state: give what approx_fx.rounding_state(model) returned.")
    steps_of([*model.parameters(), *model.modules()]).count = state["step"]
