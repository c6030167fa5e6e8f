"""Many get ready at once; what is timed is timed alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


class Turns:
    """One thing at a time, and none before all who come are there, or `seconds` are over.

    count: how many are expected.
    """

    def __init__(self, count: int, seconds: float) -> None:
        self.expected, self.end = count, time.monotonic() + seconds
        self._changed, self._turn = threading.Condition(), threading.Lock()

    def arrived(self) -> None:
        """One fewer is waited for."""
        with self._changed:
            self.expected -= 1
            self._changed.notify_all()

    def take(self) -> None:
        """Wait for the others, and for the turn."""
        with self._changed:
            self._changed.wait_for(lambda: self.expected <= 0, timeout=max(self.end - time.monotonic(), 0))
        self._turn.acquire()

    def give(self) -> None:
        """The next one's turn."""
        self._turn.release()


class Ticket:
    """A job's own turn, a context around what it times. `close`, whatever happened before: nobody waits for it."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.expected = turns, True

    def close(self) -> None:
        """It is there, or will never come."""
        if self.expected:
            self.expected = False
            self.turns.arrived()

    def __enter__(self) -> None:
        self.close()
        self.turns.take()

    def __exit__(self, *_: object) -> None:
        self.turns.give()


def side_by_side(jobs: dict[str, Callable[[Ticket], Any]], seconds: float) -> None:
    """Run jobs in threads of their own; each enters its ticket around what it times, once at most.

    seconds: after which no job waits for another to be ready.
    """
    turns = Turns(len(jobs), seconds)

    def run(job: Callable[[Ticket], Any]) -> None:
        ticket = Ticket(turns)
        try:
            job(ticket)
        finally:
            ticket.close()

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
