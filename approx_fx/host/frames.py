"""CPython's stack of Python frames: a call with so much room behind it that no inner loop crosses the end of a chunk.

CPython keeps frames in chunks of 16 KiB. Where a loop's calls happen to begin at the end of one, each maps a new chunk
and unmaps it again: a loop of small functions then takes up to 200 times as long, a minimum cut twice as long.
A frame that does not fit gets a chunk of the next power of two, whose rest is there for the calls below it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Half a chunk of 1 MiB and a little: the other half is room for some 4000 frames.
SLOTS = 2**16


def roomy(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """call(*args, **options), with no end of a chunk within reach of what it calls."""
    return call(*args, **options)


roomy.__code__ = roomy.__code__.replace(co_stacksize=SLOTS)
