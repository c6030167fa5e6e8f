"""Time shared out to sections, and a section run in a process of its own that loses nothing when it is stopped."""

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
    """`seconds` from now on, and no more. clock: monotonic seconds."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    start: float = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.clock()

    def left(self) -> float:
        """Seconds left, 0 at least."""
        return max(self.seconds - (self.clock() - self.start), 0.0)

    def allowance(self, wanted: float, spare: float = 0.0) -> float:
        """What a section that wants `wanted` seconds gets, `spare` being kept back for what comes after it."""
        return max(min(wanted, self.left() - spare), 0.0)


def run_section(
    command: Sequence[str], part: Path, seconds: float, took: Callable[[Json], None], environment: dict[str, str]
) -> Json:
    """Run a command that writes JSON to `part`, again and again; what it wrote last, with seconds and failed.

    Stopped, with all that it started, after `seconds`. took: called with each new state. failed is None, or a sentence:
    the command's last line where it ended with an error, or that its time was over.
    """
    start, seen = time.monotonic(), 0.0
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
                if part.exists() and part.stat().st_mtime > seen:
                    seen = part.stat().st_mtime
                    took({**read(part), "seconds": time.monotonic() - start, "failed": "not finished"})
                time.sleep(0.2)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if failed is None and process.returncode != 0:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        failed = f"exit status {process.returncode}: {lines[-1].strip() if lines else 'it said nothing'}"
    found = {**read(part), "seconds": time.monotonic() - start, "failed": failed}
    took(found)
    return found


def read(part: Path) -> Json:
    """The JSON in `part`, or nothing where it is missing or half written."""
    try:
        content: Json = json.loads(part.read_text())
        return content
    except (OSError, ValueError):
        return {}
