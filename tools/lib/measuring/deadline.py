"""Divide the time of a run among its sections; run a section in a process that keeps its results when stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]


@dataclass
class Deadline:
    """A limit of `seconds` from now on. clock: returns monotonic seconds."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    start: float = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.clock()

    def left(self) -> float:
        """The seconds left, at least 0."""
        return max(self.seconds - (self.clock() - self.start), 0.0)

    def allowance(self, wanted: float, spare: float = 0.0) -> float:
        """The seconds for a section that wants `wanted`; `spare` seconds are reserved for later sections."""
        return max(min(wanted, self.left() - spare), 0.0)


def run_section(
    command: Sequence[str], part: Path, seconds: float, store: Callable[[Json], None], environment: dict[str, str]
) -> Json:
    """Run a command that repeatedly writes JSON to `part`; return the last JSON, with `seconds` and `failed` added.

    The command and the processes it started are killed after `seconds`. store: called with each new state. failed:
    None, or a sentence with the last line of a command that ended with an error, or saying that its time was over.
    """
    start, last_change = time.monotonic(), 0.0
    log = part.with_suffix(".log")
    failed: str | None = None
    with log.open("w") as output:
        process = subprocess.Popen(
            list(command), stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            while process.poll() is None:
                if time.monotonic() - start > seconds:
                    failed = f"stopped after {seconds:.0f} s, the time it had; what it had measured is kept"
                    break
                if part.exists() and part.stat().st_mtime > last_change:
                    last_change = part.stat().st_mtime
                    store({**read(part), "seconds": time.monotonic() - start, "failed": "not finished"})
                time.sleep(0.2)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if failed is None and process.returncode != 0:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        failed = f"exit status {process.returncode}: {lines[-1].strip() if lines else 'it said nothing'}"
    result = {**read(part), "seconds": time.monotonic() - start, "failed": failed}
    store(result)
    return result


def read(part: Path) -> Json:
    """The JSON in `part`; {} if it is missing or incomplete."""
    try:
        content: Json = json.loads(part.read_text())
        return content
    except (OSError, ValueError):
        return {}
