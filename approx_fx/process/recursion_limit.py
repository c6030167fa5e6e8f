"""AOTAutograd and Python's compiler: sources that nest as deep as a network has buffers.

AOTAutograd writes what of its outputs has no gradient as one sum, a term for each buffer. Python compiles a sum by
following its terms, to a depth that goes with the recursion limit; a network a thousand layers deep passes it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

RECURSION_LIMIT = 5000
_LOCK = threading.Lock()
_before: list[int] = []  # the limit that each compile under way has met, the first one's at the front


@contextlib.contextmanager
def raised_recursion_limit() -> Iterator[None]:
    """Python compiles sources nested so deep inside; a higher limit stays, and the last compile to end lowers it."""
    with _LOCK:
        _before.append(sys.getrecursionlimit())
        sys.setrecursionlimit(max(_before[-1], RECURSION_LIMIT))
    try:
        yield
    finally:
        with _LOCK:
            first = _before[0]
            _before.pop()
            if not _before:
                sys.setrecursionlimit(first)
