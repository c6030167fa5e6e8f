"""Live bytes through a compiled step, kernel by kernel, predicted from the code that Inductor wrote.

Only what a kernel or op allocates for itself while it runs, such as a convolution's workspace, is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from ..errors import ApproxFxError
from .generated_code import Access, Storages, generated_code, run_dry

CALL = re.compile(r"def call\(self, args\):\n\s+(.*?),? = args\n|\n    (.*?),? = args\n")


@dataclass(frozen=True)
class Moment:
    """One event of a step. phase: 'forward' or 'backward'; what: the kernel or op; live: bytes alive behind it.

    Activations, saved codes, temporaries and gradients count, and what the forward returns to the end of the step, as a
    training loop holds it; parameters and inputs do not.
    """

    phase: str
    what: str
    live: int


@dataclass(frozen=True)
class Timeline:
    """A step, event by event."""

    moments: tuple[Moment, ...]

    @property
    def peak(self) -> Moment:
        """The first moment at which most bytes are alive."""
        return max(self.moments, key=lambda moment: moment.live)


def timeline(step: Callable[[], object]) -> Timeline:
    """Run `step`, one training step that is compiled in it, and predict its live bytes from the compiled code.

    Works for torch.compile with or without this backend, on cold and warm caches. Raises ApproxFxError if nothing was
    compiled for training, or sizes are symbolic.
    """
    with generated_code() as sources:
        step()
    return predict(sources)


def predict(sources: Sequence[str]) -> Timeline:
    """The timeline of a step whose graphs' code is given: forwards in their order, backwards in theirs."""
    forwards = [source for source in sources if not _tangents(source)]
    backwards = [source for source in sources if _tangents(source)]
    if not backwards or len(forwards) != len(backwards):
        raise ApproxFxError(
            f"a timeline needs a step that is compiled while it is watched: {len(forwards)} forward and "
            f"{len(backwards)} backward graphs were compiled. Give the first step of a model, all inputs of one size."
        )
    storages, begun, _ = _run(forwards, backwards)
    phases = ["forward"] * begun + ["backward"] * (len(storages.live) - begun)
    return Timeline(tuple(Moment(phase, *event) for phase, event in zip(phases, storages.live, strict=True)))


def accesses(sources: Sequence[str]) -> list[tuple[str, Access]]:
    """(phase, what was moved) for each loop nest of each kernel, and each op, of a step whose graphs' code is given."""
    storages, _, begun = _run([s for s in sources if not _tangents(s)], [s for s in sources if _tangents(s)])
    return [("forward" if index < begun else "backward", access) for index, access in enumerate(storages.moved)]


def _run(forwards: Sequence[str], backwards: Sequence[str]) -> tuple[Storages, int, int]:
    """The step's storages, and how many of its events, and of its accesses, are the forwards'."""
    storages, mode = Storages(), FakeTensorMode()
    saved: list[list[Any]] = []
    kept: list[Any] = []
    for forward, backward in zip(forwards, reversed(backwards), strict=True):
        outputs = list(run_dry(forward, [], storages, mode))
        count = len(_arguments(backward)) - _tangents(backward)
        saved.append(outputs[len(outputs) - count :])
        kept.append(outputs[: len(outputs) - count])
        del outputs
    begun = len(storages.live), len(storages.moved)
    for backward in backwards:
        kept.append(run_dry(backward, saved.pop(), storages, mode))
    return storages, *begun


def _arguments(source: str) -> list[str]:
    found = CALL.search(source)
    if found is None or re.search(r"^\s+s\d+ = ", source, re.MULTILINE):
        raise ApproxFxError("a timeline needs graphs of fixed sizes; compile with dynamic=False.")
    return (found.group(1) or found.group(2)).split(", ")


def _tangents(source: str) -> int:
    return sum("tangents" in name for name in _arguments(source))
