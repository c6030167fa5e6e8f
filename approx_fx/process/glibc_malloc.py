"""glibc's malloc, told to keep freed memory: a step that frees and decodes again would fault its pages in each time.

With few bytes saved, the heap's top is free at the end of each kernel; glibc gives it back to the system, and maps what
is larger than 32 MiB anew each time. DenseNet-121's step at batch 64 faults 400,000 pages, 0.7 of its 1.8 seconds.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from functools import lru_cache

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # mallopt's parameters, in malloc.h
NEVER = -1
LARGEST = 1 << 30  # bytes: a larger tensor is mapped, and returned to the system when it is freed
THEIRS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_", "LD_PRELOAD")


@lru_cache(1)
def keep_freed_memory() -> bool:
    """Let this process's malloc keep what is freed, for the next step. True if done.

    Nothing is done where malloc is not glibc's, or where the user has set it up: by LD_PRELOAD, by a variable of
    `THEIRS`, or by GLIBC_TUNABLES that name malloc. MALLOC_TOP_PAD_=131072, its default, thus keeps malloc as it is.
    """
    if set_by_user(os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (not in other C libraries)
        mallopt = libc.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mapped = mallopt(MMAP_THRESHOLD, LARGEST) or mallopt(MMAP_MAX, 0)  # older versions allow 32 MiB at most
    return bool(mapped and mallopt(TRIM_THRESHOLD, NEVER))


def set_by_user(environment: Mapping[str, str]) -> bool:
    """Whether the environment sets up malloc."""
    return any(environment.get(name) for name in THEIRS) or "malloc" in environment.get("GLIBC_TUNABLES", "")
