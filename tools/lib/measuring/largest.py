"""Find the largest batch that fits a given memory, by measuring, and the throughput at that batch."""

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
from tools.lib.measuring.calculations import extrapolated_batch, search

Json = dict[str, Any]
OUT_OF_MEMORY = ("OutOfMemory", "out of memory")


def probe(
    system: str, target: str, batch: int, dtype: str, bits: int, memory: int | None, steps: int,
    turn: contextlib.AbstractContextManager[object] | None = None,
) -> Json:  # fmt: skip
    """Measure one batch in a separate process: peak_bytes, step_seconds, samples; or {"failed": why}.

    memory: the bytes that the process may use on a GPU; not enforced on a CPU, where the caller compares the peak.
    turn: a context entered for the timed steps.
    """
    config = config_of(system, Config(bits=bits))
    with tempfile.TemporaryDirectory() as folder:
        job = Job(system, target, batch, dtype, config, str(Path(folder) / "run"), memory)
        with worker(job) as connection:
            try:
                measured = ask(connection, "first")
                measured.update(ask(connection, "memory"))
                if steps:
                    with turn or contextlib.nullcontext():
                        step_seconds = [ask(connection, "step")["seconds"] for _ in range(steps + 1)][1:]
                    measured["step_seconds"] = statistics.median(step_seconds)
            except RuntimeError as error:
                return {"batch": batch, "failed": str(error)}
    return {"batch": batch, **measured}


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
    enforce: bool = False,
    seconds: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Json:
    """Find the largest batch whose step fits `memory` bytes: extrapolate from two small batches, then run real steps.

    small: the two batches. enforce: limit the process to `memory` (GPU only); a batch then fits if no step runs out of
    memory, else if the measured peak is at most `memory`. probes: the largest number of real steps, each compiled anew;
    none starts after `seconds`. Returns batch (None if no probe fitted), predicted, samples_per_second, and the
    measured peaks and probes; or failed.
    """
    pick(system, "system")
    end = None if seconds is None else time.monotonic() + seconds
    peaks = []
    for batch in small:
        progress(f"{system}: peak at batch {batch}")
        peaks.append(probe(system, target, batch, dtype, bits, memory if enforce else None, 0))
        if "failed" in peaks[-1]:
            return {"failed": peaks[-1]["failed"], "peaks": peaks}
    try:
        one, two = ((peak["batch"], peak["peak_bytes"]) for peak in peaks)
        predicted = extrapolated_batch(one, two, memory, multiple)
    except ValueError as error:
        return {"failed": str(error), "peaks": peaks}
    probed: list[Json] = []

    def fits(batch: int) -> bool:
        if end is not None and time.monotonic() > end:
            return False
        progress(f"{system}: a step at batch {batch}")
        step = probe(system, target, batch, dtype, bits, memory if enforce else None, steps)
        probed.append(step)
        if "failed" in step and not any(word in step["failed"] for word in OUT_OF_MEMORY):
            raise RuntimeError(step["failed"])
        return "failed" not in step and (enforce or step["peak_bytes"] <= memory)

    try:
        largest = search(fits, predicted, multiple, probes)
    except RuntimeError as error:
        return {"failed": str(error), "predicted": predicted, "peaks": peaks, "probes": probed}
    best = next((probe for probe in probed if probe["batch"] == largest and "failed" not in probe), {})
    speed = best["samples"] / best["step_seconds"] if best.get("step_seconds") and best.get("samples") else None
    return {"batch": largest, "predicted": predicted, "samples_per_second": speed, "peaks": peaks, "probes": probed}
