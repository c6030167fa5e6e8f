"""A lock for timed sections: jobs compile at the same time, but only one at a time is timed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


class TimingLock:
    """Grants one timed section at a time, and none before all expected jobs are ready or `seconds` have passed.

    count: the number of expected jobs.
    """

    def __init__(self, count: int, seconds: float) -> None:
        self.expected, self.end = count, time.monotonic() + seconds
        self._changed, self._timing = threading.Condition(), threading.Lock()

    def mark_ready(self) -> None:
        """Count one expected job as ready, or as finished without timing anything."""
        with self._changed:
            self.expected -= 1
            self._changed.notify_all()

    def acquire(self) -> None:
        """Wait until the other jobs are ready, then acquire the lock."""
        with self._changed:
            self._changed.wait_for(lambda: self.expected <= 0, timeout=max(self.end - time.monotonic(), 0))
        self._timing.acquire()

    def release(self) -> None:
        """Release the lock to the next job."""
        self._timing.release()


class Ticket:
    """The context that one job enters around its timed section. After `close`, no other job waits for this one."""

    def __init__(self, lock: TimingLock) -> None:
        self.lock, self.expected = lock, True

    def close(self) -> None:
        """Report, once, that this job is ready or will not time anything."""
        if self.expected:
            self.expected = False
            self.lock.mark_ready()

    def __enter__(self) -> None:
        self.close()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def side_by_side(jobs: dict[str, Callable[[Ticket], Any]], seconds: float) -> None:
    """Run each job in a thread; a job enters its ticket around its timed section, at most once.

    seconds: the longest time that jobs wait for others to be ready.
    """
    lock = TimingLock(len(jobs), seconds)

    def run(job: Callable[[Ticket], Any]) -> None:
        ticket = Ticket(lock)
        try:
            job(ticket)
        finally:
            ticket.close()

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
