"""Which compiled graphs a model's last training step ran, and what they kept for its backward.

A graph that was compiled is not always one that is used: another batch size recompiles it, a second conversion replaces
it, one compiled block serves all blocks of its class, and a module may be called several times in a step. So each run
is noted when it happens, under what it belongs to: the converted module, and the first parameter that it reads.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from ..torch_compat.autograd import in_backward
from ..torch_compat.fsdp import unsharded_parameters
from .data import GraphReport, MeasuredValue


@dataclass(eq=False)
class CompiledGraph:
    """What is reported of one compiled graph, which changes when it is measured or compiled again.

    options: the fields of the `Config` by which it was compiled.
    """

    options: dict[str, Any]
    reports: list[GraphReport] = field(default_factory=list)

    def set_measured(self, values: Sequence[MeasuredValue]) -> None:
        """Write what was measured into the reports."""
        self.reports = [with_measured(graph, values) for graph in self.reports]


def with_measured(graph: GraphReport, values: Sequence[MeasuredValue]) -> GraphReport:
    """The report of a graph with what was measured of its values."""
    errors = {(value.name, value.module): value.measured for value in values}
    return dataclasses.replace(graph.with_errors(errors), values=tuple(values))


@dataclass(eq=False)
class Run:
    """One run of a compiled graph's forward, with gradients enabled, in the training step of this number."""

    graph: CompiledGraph
    step: int
    number: int = field(default_factory=itertools.count().__next__)


class _Steps:
    """Counts training steps of the process: a forward that runs after a backward begins the next step."""

    def __init__(self) -> None:
        self.number = 0
        self.backward_ran = False

    def of_forward(self) -> int:
        """The number of the step that a forward belongs to, which is about to be noted."""
        if self.backward_ran and not in_backward():  # else it is recomputed for a checkpoint outside the graph
            self.number, self.backward_ran = self.number + 1, False
        return self.number

    def on_backward(self, _: Any) -> None:
        """A backward has begun."""
        self.backward_ran = True


_STEPS = _Steps()
# parameter or converted module -> its runs in the last step in which it ran
_RUNS: WeakIdKeyDictionary = WeakIdKeyDictionary()
# converted module of which nothing is compiled -> a sentence that says why
_UNCOMPILED: WeakIdKeyDictionary = WeakIdKeyDictionary()


def noted(
    compiled: Callable[..., Any], graph: CompiledGraph, owners: Callable[[], Sequence[nn.Module]]
) -> Callable[..., Any]:
    """Wrap a compiled graph so that each of its runs in training is noted. owners: the modules converted by it."""

    def call(*args: Any) -> Any:
        results = compiled(*args)
        if torch.is_grad_enabled():
            node = next((r.grad_fn for r in results if isinstance(r, torch.Tensor) and r.grad_fn is not None), None)
            if node is not None:
                node.register_prehook(_STEPS.on_backward)
                _note(Run(graph, _STEPS.of_forward()), [*owners(), *first_parameter(args)])
        return results

    return call


def first_parameter(args: Sequence[Any]) -> list[nn.Parameter]:
    """The first parameter among a graph's inputs, or nothing."""
    parameter = next((value for value in args if isinstance(value, nn.Parameter)), None)
    return [] if parameter is None else [parameter]


def _note(run: Run, keys: Sequence[nn.Module | nn.Parameter]) -> None:
    for key in keys:
        runs = _RUNS.get(key, [])
        _RUNS[key] = [*runs, run] if runs and runs[0].step == run.step else [run]


def note_uncompiled(model: nn.Module, sentence: str) -> None:
    """Remember why nothing of a converted module is compiled."""
    _UNCOMPILED[model] = sentence


def why_uncompiled(model: nn.Module) -> str:
    """Why nothing of a module, or of one in it, is compiled; '' if that is not known."""
    return next((_UNCOMPILED[module] for module in model.modules() if module in _UNCOMPILED), "")


def forget_runs(model: nn.Module) -> None:
    """Forget what was compiled for a model that runs uncompiled from now on."""
    for key in (*model.modules(), *model.parameters()):
        _RUNS.pop(key, None)
        _UNCOMPILED.pop(key, None)


def last_runs(model: nn.Module) -> list[Run]:
    """The runs of the last step in which the model ran, in the order of time."""
    keys = (*model.modules(), *model.parameters(), *unsharded_parameters(model))
    runs = {id(run): run for key in keys for run in _RUNS.get(key, [])}
    last = max((run.step for run in runs.values()), default=0)
    return sorted((run for run in runs.values() if run.step == last), key=lambda run: run.number)
