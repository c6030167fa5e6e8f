"""compare: the same step under approx_fx and under others, each in a process of its own, steps alternated."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from ..config import Config
from ..errors import ApproxFxError
from .baselines import OURS, SYSTEMS, config_of, pick
from .target import load
from .worker import Job, Json, ask, flat_gradients, worker

__all__ = ["compare", "flat_gradients"]

PARTS = {"seconds": "step_seconds", "forward": "forward_seconds", "backward": "backward_seconds"}
OTHERS = tuple(name for name in SYSTEMS if name != OURS)


def compare(
    target: str,
    batch: int | None = None,
    config: Config | None = None,
    dtype: str = "float32",
    steps: int = 10,
    against: tuple[str, ...] = ("compile",),
    progress: Callable[[str], None] = lambda _: None,
    warm: bool = False,
    lenient: bool = False,
    seconds: float | None = None,
    save: Callable[[dict[str, Json]], None] = lambda _: None,
    turn: contextlib.AbstractContextManager[object] | None = None,
) -> Json:
    """Time, peak, saved bytes and gradients of one training step; returns the contract's JSON.

    against: names in `approx_fx.bench.baselines`, widths allowed ('approx_fx@2'); the ratios refer to the first.
    compile_seconds is the first step with a cold cache; step_, forward_ and backward_seconds are medians of `steps`
    alternated steps, step_quartiles their spread; with `warm`, warm_seconds is the first step of a new process that
    finds the cache filled. On a GPU, busy_seconds are those of a step's kernels alone: where they are fewer than
    step_seconds, the host was too slow. ratio.step and ratio.compile are approx_fx / the first of `against`,
    ratio.peak and ratio.saved the inverse. A run's own `gradient` and `loss_equal` compare it with the first of
    `against`.

    A system that fails is recorded as {"failed": why}; where it is approx_fx or the first of `against`, RuntimeError is
    raised instead, unless `lenient`: then ratio, gradient and loss_equal are None. seconds: systems behind the first
    two are left out, and recorded as failed, where their turn to compile comes later than this. save: called with the
    runs as far as they are measured, whenever there is more of them. turn: entered for the timed steps, so that
    several comparisons can get ready at once; where it is given, systems compile side by side, too.
    """
    for name in against:
        pick(name, allowed=OTHERS)
    if steps < 1:
        raise ApproxFxError(f"--steps {steps} is not allowed: 1 or more.")
    load(target, batch)
    config = config or Config()
    names = list(dict.fromkeys((OURS, *against)))
    required = () if lenient else tuple(names[:2])
    end = None if seconds is None else time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        jobs = {name: Job(name, target, batch, dtype, config_of(name, config), str(Path(folder) / name))
                for name in names}  # fmt: skip
        with contextlib.ExitStack() as stack:
            group = _Group(stack, jobs, required, progress)
            if turn is None:
                group.first(names[:2], None)
                save(group.runs)
                group.first(names[2:], end)
            else:
                group.first_at_once(names)
            group.memory()
            save(group.runs)
            with turn or contextlib.nullcontext():
                group.steps(steps)
            save(group.runs)
        if warm:
            group.warm()
        _gradients(group.runs, Path(folder), _base(names))
    return _summary(group.runs, _base(names), dataclasses.asdict(config), jobs[OURS])


@dataclass
class _Group:
    """The workers of one comparison; what one cannot do takes it out, or raises if it is required."""

    stack: contextlib.ExitStack
    jobs: dict[str, Job]
    required: tuple[str, ...]
    progress: Callable[[str], None]
    runs: dict[str, Json] = field(default_factory=dict)
    workers: dict[str, Connection] = field(default_factory=dict)

    def first(self, names: list[str], end: float | None) -> None:
        """Start and compile, one after the other; none that would start behind `end` (monotonic seconds)."""
        for name in names:
            if end is not None and time.monotonic() > end:
                self.runs[name] = {"failed": f"{name}: left out, the time given was over"}
                continue
            self.progress(f"compiling: {name}")
            self.workers[name] = self.stack.enter_context(worker(self.jobs[name]))
            self.runs[name] = self._ask(name, "first") or self.runs[name]

    def first_at_once(self, names: list[str]) -> None:
        """Start and compile side by side; compile_seconds are then those of a busy machine."""
        self.progress(f"compiling: {', '.join(names)}")
        self.workers = {name: self.stack.enter_context(worker(self.jobs[name])) for name in names}
        with ThreadPoolExecutor(len(names)) as pool:
            for name, found in zip(names, pool.map(lambda name: self._ask(name, "first"), names), strict=True):
                self.runs[name] = found or self.runs[name]

    def memory(self) -> None:
        """Peak and saved bytes of each."""
        for name in list(self.workers):
            self.progress(f"measuring memory: {name}")
            self.runs[name].update(self._ask(name, "memory") or {})

    def steps(self, count: int) -> None:
        """Timed steps, in an order that turns round each time, after one that is not timed."""
        for name in list(self.workers):
            self._ask(name, "step")
        taken: dict[str, list[Json]] = {name: [] for name in self.workers}
        for index in range(count):
            self.progress(f"step {index + 1} of {count}")
            for name in list(self.workers) if index % 2 == 0 else list(reversed(self.workers)):
                found = self._ask(name, "step")
                taken[name] += [found] if found else []
        for name in self.workers:
            for part, key in PARTS.items():
                self.runs[name][key] = statistics.median(step[part] for step in taken[name])
            every = [step["seconds"] for step in taken[name]]
            self.runs[name]["step_seconds_all"] = every
            self.runs[name]["step_quartiles"] = quartiles(every)
        for name in list(self.workers):
            self.runs[name].update(self._ask(name, "kernels") or {})

    def warm(self) -> None:
        """The first step of a second process, after the first has gone."""
        for name in list(self.workers):
            self.progress(f"warm start: {name}")
            with worker(self.jobs[name]) as second:
                self.workers[name] = second
                found = self._ask(name, "first")
            if found:
                self.runs[name]["warm_seconds"] = found["compile_seconds"]

    def _ask(self, name: str, request: str) -> Json | None:
        try:
            answer: Json = ask(self.workers[name], request)
            return answer
        except RuntimeError as error:
            if name in self.required:
                raise
            self.runs[name] = {"failed": str(error)}
            del self.workers[name]
            return None


def quartiles(values: list[float]) -> list[float]:
    """The first and the third quartile, both inside the values' range."""
    if len(values) < 2:
        return [values[0], values[0]]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def _base(names: list[str]) -> str:
    return names[1] if len(names) > 1 else OURS


def _gradients(runs: dict[str, Json], folder: Path, base: str) -> None:
    """Each run's gradient and loss against those of `base`, into the run."""
    if "failed" in runs[base]:
        return
    exact = torch.load(folder / base / "gradients.pt")
    norm = exact.norm()
    for name, run in runs.items():
        if "failed" not in run:
            mine = torch.load(folder / name / "gradients.pt")
            run["gradient"] = {
                "relative_error": float((mine - exact).norm() / norm),
                "cosine": float(mine @ exact / (mine.norm() * norm)),
            }
            run["loss_equal"] = run["loss"] == runs[base]["loss"]


def _summary(runs: dict[str, Json], base: str, options: Json, job: Job) -> Json:
    ours, other = runs[OURS], runs[base]
    whole = "failed" not in ours and "failed" not in other
    return {
        "schema": 1,
        "target": job.target,
        "batch": job.batch,
        "dtype": job.dtype,
        "options": options,
        "against": base,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "runs": runs,
        "ratio": ratios(ours, other) if whole else None,
        "gradient": ours["gradient"] if whole else None,
        "loss_equal": ours["loss_equal"] if whole else None,
    }


def ratios(ours: Json, other: Json) -> Json:
    """Times are ours / other, lower is better; bytes are other / ours, higher is better."""
    return {
        "step": ours["step_seconds"] / other["step_seconds"],
        "compile": ours["compile_seconds"] / other["compile_seconds"],
        "peak": other["peak_bytes"] / max(ours["peak_bytes"], 1),
        "saved": other["saved_bytes"] / max(ours["saved_bytes"], 1),
    }
