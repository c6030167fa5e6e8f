"""AOTAutograd and Python's compiler: sources that nest as deep as a network has buffers.

AOTAutograd writes what of its outputs has no gradient as one sum, a term for each buffer. Python compiles a sum by
following its terms, to a depth that goes with the recursion limit; a network a thousand layers deep passes it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

RECURSION_LIMIT = 5000


@contextlib.contextmanager
def raised_recursion_limit() -> Iterator[None]:
    """Python compiles sources nested so deep inside; a limit that is higher already stays."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, RECURSION_LIMIT))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
