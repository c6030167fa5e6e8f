"""Module patterns, such as 'head' or '*.attn*': which module paths they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

Value = TypeVar("Value")


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern names the module at `path`, or one that holds it; '*' stands for any text, dots included."""
    parts = path.split(".")
    return any(fnmatchcase(".".join(parts[: count + 1]), pattern) for count in range(len(parts)))


def named(patterns: Iterable[str], path: str) -> bool:
    """Whether any of the patterns names the module."""
    return any(matches(pattern, path) for pattern in patterns)


def last_match(table: Mapping[str, Value], path: str, default: Value) -> Value:
    """The value of the last pattern that names the module."""
    return next((value for pattern, value in reversed(list(table.items())) if matches(pattern, path)), default)
