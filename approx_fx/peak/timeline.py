"""Predict the bytes alive through a compiled step, kernel by kernel, from the code that Inductor generated.

Memory that a kernel or op allocates internally while it runs, such as a convolution's workspace, is not counted.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from ..errors import ApproxFxError
from .dry_run import Access, Storages, generated_code, run_dry

CALL = re.compile(r"def call\(self, args\):\n\s+(.*?),? = args\n|\n    (.*?),? = args\n")


@dataclass(frozen=True)
class Moment:
    """One event of a step. phase: 'forward' or 'backward'; what: the kernel or op; live: bytes alive after it.

    Activations, saved codes, temporaries and gradients count, and so do the forward's results until the end of the
    step, because a training loop holds them. Parameters and inputs do not count.
    """

    phase: str
    what: str
    live: int


@dataclass(frozen=True)
class Timeline:
    """The events of a step, in order."""

    moments: tuple[Moment, ...]

    @property
    def peak(self) -> Moment:
        """The first moment with the most bytes alive."""
        return max(self.moments, key=lambda moment: moment.live)


def timeline(step: Callable[[], object]) -> Timeline:
    """Run `step`, the first training step of a compiled model, and predict its live bytes from the generated code.

    Works for torch.compile with or without this backend, with cold and warm caches. Raises ApproxFxError if nothing was
    compiled for training, or if sizes are symbolic.
    """
    with generated_code() as sources:
        step()
    return predict(sources)


def predict(sources: Sequence[str]) -> Timeline:
    """The timeline of a step from its graphs' sources, in which forwards and backwards are each in execution order."""
    forwards = [source for source in sources if not _tangents(source)]
    backwards = [source for source in sources if _tangents(source)]
    if not backwards or len(forwards) != len(backwards):
        raise ApproxFxError(
            f"a timeline needs a step that is compiled while it is watched: {len(forwards)} forward and "
            f"{len(backwards)} backward graphs were compiled. Give the first step of a model, all inputs of one size."
        )
    storages, forward_events, _ = _run(forwards, backwards)
    phases = ["forward"] * forward_events + ["backward"] * (len(storages.live) - forward_events)
    return Timeline(tuple(Moment(phase, *event) for phase, event in zip(phases, storages.live, strict=True)))


def accesses(sources: Sequence[str]) -> list[tuple[str, Access]]:
    """(phase, bytes moved) for each loop nest of each kernel and each op of a step, from its graphs' sources."""
    storages, _, forward_accesses = _run([s for s in sources if not _tangents(s)], [s for s in sources if _tangents(s)])
    return [
        ("forward" if index < forward_accesses else "backward", access) for index, access in enumerate(storages.moved)
    ]


def _run(forwards: Sequence[str], backwards: Sequence[str]) -> tuple[Storages, int, int]:
    """Dry-run a step; return its storages, and how many of its events and of its accesses belong to the forwards."""
    freezes = gc.get_freeze_count() == 0
    if freezes:
        gc.freeze()  # what is there already need not be looked at in every collection
    try:
        return _dry_run(forwards, backwards)
    finally:
        if freezes:
            gc.unfreeze()


def _dry_run(forwards: Sequence[str], backwards: Sequence[str]) -> tuple[Storages, int, int]:
    storages, mode = Storages(), FakeTensorMode()
    saved: list[list[Any]] = []
    returned: list[Any] = []  # results and gradients, alive to the end of the step
    for forward, backward in zip(forwards, reversed(backwards), strict=True):
        outputs = list(run_dry(forward, [], storages, mode))
        count = len(_arguments(backward)) - _tangents(backward)
        saved.append(outputs[len(outputs) - count :])
        returned.append(outputs[: len(outputs) - count])
        del outputs
    in_forward = len(storages.live), len(storages.moved)
    for backward in backwards:
        returned.append(run_dry(backward, saved.pop(), storages, mode))
    return storages, *in_forward


def _arguments(source: str) -> list[str]:
    call = CALL.search(source)
    if call is None or re.search(r"^\s+s\d+ = (?!\w*rng_state)", source, re.MULTILINE):
        raise ApproxFxError("a timeline needs graphs of fixed sizes; compile with dynamic=False.")
    return (call.group(1) or call.group(2)).split(", ")


def _tangents(source: str) -> int:
    return sum("tangents" in name for name in _arguments(source))
