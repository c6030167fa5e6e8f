"""Matching module paths with the patterns of options, such as 'head' or '*.attn*'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

Value = TypeVar("Value")


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern matches `path` or the path of a module that contains it; '*' is any text, dots included."""
    parts = path.split(".")
    return any(fnmatchcase(".".join(parts[: count + 1]), pattern) for count in range(len(parts)))


def named(patterns: Iterable[str], path: str) -> bool:
    """Whether any of the patterns matches the module at `path`."""
    return any(matches(pattern, path) for pattern in patterns)


def last_match(table: Mapping[str, Value], path: str, default: Value) -> Value:
    """The value of the last pattern in `table` that matches the module at `path`; `default` if none does."""
    return next((value for pattern, value in reversed(list(table.items())) if matches(pattern, path)), default)
