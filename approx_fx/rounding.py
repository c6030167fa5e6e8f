"""The step that stochastic rounding is keyed on: how many forward calls a model has had, saved and restored."""

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
    """Forward calls of one model so far."""

    count: int = 0


# parameter or converted module -> the steps of the model that it belongs to
_steps: WeakIdKeyDictionary = WeakIdKeyDictionary()


def steps_of(owners: Iterable[Any]) -> Steps:
    """The steps of the model of these parameters and modules; those of a model not seen before start at 0."""
    known = [item for item in owners if isinstance(item, (nn.Parameter, nn.Module))]
    steps = next((_steps[item] for item in known if item in _steps), Steps())
    for item in known:
        _steps.setdefault(item, steps)
    return steps


def counted(compiled: Callable[..., Any], steps: Steps) -> Callable[..., Any]:
    """`compiled`, with every call a step of its own."""

    def call(*args: Any) -> Any:
        step, steps.count = steps.count, steps.count + 1
        with at_step(step):
            return compiled(*args)

    return call


def rounding_state(model: nn.Module) -> dict[str, int]:
    """What stochastic rounding needs to go on where it was: save it beside the model's and the optimizer's state."""
    return {"step": steps_of([*model.parameters(), *model.modules()]).count}


def load_rounding_state(model: nn.Module, state: dict[str, int]) -> None:
    """Go on from a saved `rounding_state`. Raises ApproxFxError for anything else."""
    if not isinstance(state, dict) or set(state) != {"step"} or not isinstance(state["step"], int):
        raise ApproxFxError(f"{state!r} is no rounding state: give what approx_fx.rounding_state(model) returned.")
    steps_of([*model.parameters(), *model.modules()]).count = state["step"]
