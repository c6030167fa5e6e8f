"""Raise Python's recursion limit during a compile, for networks with thousands of buffers.

AOTAutograd generates Python source in which the outputs without a gradient form one sum with a term for each buffer.
Python's compiler recurses once for each term, up to the recursion limit, which a network of a thousand layers exceeds.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

RECURSION_LIMIT = 5000
_LOCK = threading.Lock()
_limits_before: list[int] = []  # the limit found by each compile in progress, in the order they began


@contextlib.contextmanager
def raised_recursion_limit() -> Iterator[None]:
    """Raise the limit to at least `RECURSION_LIMIT`; of overlapping compiles, the last to end restores it."""
    with _LOCK:
        _limits_before.append(sys.getrecursionlimit())
        sys.setrecursionlimit(max(_limits_before[-1], RECURSION_LIMIT))
    try:
        yield
    finally:
        with _LOCK:
            first = _limits_before[0]
            _limits_before.pop()
            if not _limits_before:
                sys.setrecursionlimit(first)
