"""The largest batch that a memory holds, measured, and the throughput there."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from approx_fx.bench.baselines import config_of, pick
from approx_fx.bench.worker import Job, ask, worker
from approx_fx.config import Config
from tools.measuring.calculations import extrapolated_batch, search

Json = dict[str, Any]
OUT_OF_MEMORY = ("OutOfMemory", "out of memory")


def probe(
    system: str, target: str, batch: int, dtype: str, bits: int, memory: int | None, steps: int,
    turn: contextlib.AbstractContextManager[object] | None = None,
) -> Json:  # fmt: skip
    """One batch in a process of its own: peak_bytes, step_seconds, samples; or {"failed": why}.

    memory: on a GPU, the bytes that the process may take; not enforced on a CPU, where the peak is to be compared.
    turn: entered for the timed steps.
    """
    config = config_of(system, Config(bits=bits))
    with tempfile.TemporaryDirectory() as folder:
        job = Job(system, target, batch, dtype, config, str(Path(folder) / "run"), memory)
        with worker(job) as connection:
            try:
                found = ask(connection, "first")
                found.update(ask(connection, "memory"))
                if steps:
                    with turn or contextlib.nullcontext():
                        every = [ask(connection, "step")["seconds"] for _ in range(steps + 1)][1:]
                    found["step_seconds"] = statistics.median(every)
            except RuntimeError as error:
                return {"batch": batch, "failed": str(error)}
    return {"batch": batch, **found}


def largest_batch(
    system: str,
    target: str,
    memory: int,
    dtype: str = "float32",
    bits: int = 4,
    small: tuple[int, int] = (8, 16),
    multiple: int = 8,
    probes: int = 1,
    steps: int = 3,
    hard: bool = False,
    seconds: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Json:
    """The largest batch whose step fits `memory` bytes: two peaks, a line through them, then real steps there.

    small: the two batches. hard: `memory` is enforced (a GPU), and fitting means that no step ran out of it; else that
    the measured peak is at most `memory`. probes: real steps at most, each compiled anew; none starts after `seconds`.
    Returns batch (None if no probe fitted), predicted, samples_per_second, peaks and probes as measured; or failed.
    """
    pick(system, "system")
    end = None if seconds is None else time.monotonic() + seconds
    peaks = []
    for batch in small:
        progress(f"{system}: peak at batch {batch}")
        peaks.append(probe(system, target, batch, dtype, bits, memory if hard else None, 0))
        if "failed" in peaks[-1]:
            return {"failed": peaks[-1]["failed"], "peaks": peaks}
    try:
        one, two = ((each["batch"], each["peak_bytes"]) for each in peaks)
        predicted = extrapolated_batch(one, two, memory, multiple)
    except ValueError as error:
        return {"failed": str(error), "peaks": peaks}
    tried: list[Json] = []

    def fits(batch: int) -> bool:
        if end is not None and time.monotonic() > end:
            return False
        progress(f"{system}: a step at batch {batch}")
        step = probe(system, target, batch, dtype, bits, memory if hard else None, steps)
        tried.append(step)
        if "failed" in step and not any(word in step["failed"] for word in OUT_OF_MEMORY):
            raise RuntimeError(step["failed"])
        return "failed" not in step and (hard or step["peak_bytes"] <= memory)

    try:
        found = search(fits, predicted, multiple, probes)
    except RuntimeError as error:
        return {"failed": str(error), "predicted": predicted, "peaks": peaks, "probes": tried}
    best = next((each for each in tried if each["batch"] == found and "failed" not in each), {})
    speed = best["samples"] / best["step_seconds"] if best.get("step_seconds") and best.get("samples") else None
    return {"batch": found, "predicted": predicted, "samples_per_second": speed, "peaks": peaks, "probes": tried}
