"""Compare one training step under approx_fx and other systems, each in its own process, with alternating steps."""

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
    """Measure time, peak, saved bytes and gradients of one training step; return the JSON of `approx-fx compare`.

    against: names in `approx_fx.bench.baselines`, widths allowed ('approx_fx@2'); the ratios refer to the first.
    steps: timed steps of each system. warm: also time the first step of a second process with a filled cache.
    lenient: do not raise if approx_fx or the first of `against` fails. seconds: systems after the first two whose
    compilation would start later than this are left out and recorded as failed. save: called with the runs measured so
    far, whenever there are new results. turn: entered for the timed steps, so that several comparisons can compile at
    the same time; if given, the systems of this comparison compile side by side, too.

    In the result, times are in seconds. compile_seconds: the first step, with a cold cache; warm_seconds: with a filled
    one; step_, forward_ and backward_seconds: medians of the timed steps; step_quartiles: their quartiles;
    busy_seconds: of the kernels of a step on a GPU, below step_seconds where the GPU waits for the host. ratio.step and
    ratio.compile are approx_fx / the first of `against`, ratio.peak and ratio.saved the inverse. `gradient` and
    `loss_equal` of a run compare it with the first of `against`.

    Raises ApproxFxError for an unknown system or target and for `steps` below 1. A system that fails is recorded as
    {"failed": why}. If it is approx_fx or the first of `against`, RuntimeError is raised; if `lenient`, ratio, gradient
    and loss_equal are None instead.
    """
    for name in against:
        pick(name, allowed=OTHERS)
    if steps < 1:
        raise ApproxFxError(f"--steps {steps} is not allowed: 1 or more.")
    loaded = load(target, batch)
    if not lenient:
        for name in against:  # what a system refuses, it refuses before anything is compiled
            pick(name).prepare(loaded.model)
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
    """The worker processes of one comparison. One that fails is dropped, or raises if its name is in `required`."""

    stack: contextlib.ExitStack
    jobs: dict[str, Job]
    required: tuple[str, ...]
    progress: Callable[[str], None]
    runs: dict[str, Json] = field(default_factory=dict)
    workers: dict[str, Connection] = field(default_factory=dict)

    def first(self, names: list[str], end: float | None) -> None:
        """Start and compile one system after the other; none starts after `end` (monotonic seconds)."""
        for name in names:
            if end is not None and time.monotonic() > end:
                self.runs[name] = {"failed": f"{name}: left out, the time given was over"}
                continue
            self.progress(f"compiling: {name}")
            self.workers[name] = self.stack.enter_context(worker(self.jobs[name]))
            self.runs[name] = self._ask(name, "first") or self.runs[name]

    def first_at_once(self, names: list[str]) -> None:
        """Start and compile all systems at the same time; compile_seconds are then those of a busy machine."""
        self.progress(f"compiling: {', '.join(names)}")
        self.workers = {name: self.stack.enter_context(worker(self.jobs[name])) for name in names}
        with ThreadPoolExecutor(len(names)) as pool:
            for name, answer in zip(names, pool.map(lambda name: self._ask(name, "first"), names), strict=True):
                self.runs[name] = answer or self.runs[name]

    def memory(self) -> None:
        """Measure peak and saved bytes of each system."""
        for name in list(self.workers):
            self.progress(f"measuring memory: {name}")
            self.runs[name].update(self._ask(name, "memory") or {})

    def steps(self, count: int) -> None:
        """Time `count` steps of each system, in an order that reverses each time, after one untimed step."""
        for name in list(self.workers):
            self._ask(name, "step")
        timed: dict[str, list[Json]] = {name: [] for name in self.workers}
        for index in range(count):
            self.progress(f"step {index + 1} of {count}")
            for name in list(self.workers) if index % 2 == 0 else list(reversed(self.workers)):
                step = self._ask(name, "step")
                timed[name] += [step] if step else []
        for name in self.workers:
            for part, key in PARTS.items():
                self.runs[name][key] = statistics.median(step[part] for step in timed[name])
            seconds = [step["seconds"] for step in timed[name]]
            self.runs[name]["step_seconds_all"] = seconds
            self.runs[name]["step_quartiles"] = quartiles(seconds)
        for name in list(self.workers):
            self.runs[name].update(self._ask(name, "kernels") or {})

    def warm(self) -> None:
        """Time the first step of a second process, which finds the cache of the first one filled."""
        for name in list(self.workers):
            self.progress(f"warm start: {name}")
            with worker(self.jobs[name]) as second:
                self.workers[name] = second
                first_step = self._ask(name, "first")
            if first_step:
                self.runs[name]["warm_seconds"] = first_step["compile_seconds"]

    def _ask(self, name: str, request: str) -> Json | None:
        try:
            answer: Json = ask(self.workers[name], request)
            return answer
        except (RuntimeError, ApproxFxError) as error:
            if name in self.required:
                raise
            self.runs[name] = {"failed": str(error)}
            del self.workers[name]
            return None


def quartiles(values: list[float]) -> list[float]:
    """The first and the third quartile, interpolated between values."""
    if len(values) < 2:
        return [values[0], values[0]]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def _base(names: list[str]) -> str:
    return names[1] if len(names) > 1 else OURS


def _gradients(runs: dict[str, Json], folder: Path, base: str) -> None:
    """Compare each run's gradient and loss with those of `base`; the results are stored in the run."""
    if "failed" in runs[base]:
        return
    exact = torch.load(folder / base / "gradients.pt")
    norm = exact.norm()
    for name, run in runs.items():
        if "failed" not in run:
            gradient = torch.load(folder / name / "gradients.pt")
            run["gradient"] = {
                "relative_error": float((gradient - exact).norm() / norm),
                "cosine": float(gradient @ exact / (gradient.norm() * norm)),
            }
            run["loss_equal"] = run["loss"] == runs[base]["loss"]


def _summary(runs: dict[str, Json], base: str, options: Json, job: Job) -> Json:
    own_run, base_run = runs[OURS], runs[base]
    complete = "failed" not in own_run and "failed" not in base_run
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
        "ratio": ratios(own_run, base_run) if complete else None,
        "gradient": own_run["gradient"] if complete else None,
        "loss_equal": own_run["loss_equal"] if complete else None,
    }


def ratios(run: Json, base: Json) -> Json:
    """Ratios of two runs: times are run / base, lower is better; bytes are base / run, higher is better."""
    return {
        "step": run["step_seconds"] / base["step_seconds"],
        "compile": run["compile_seconds"] / base["compile_seconds"],
        "peak": base["peak_bytes"] / max(run["peak_bytes"], 1),
        "saved": base["saved_bytes"] / max(run["saved_bytes"], 1),
    }
