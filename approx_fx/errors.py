"""Errors with messages a user can act on: what was given, what is allowed, the nearest valid spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ApproxFxError(ValueError):
    """A request that cannot be carried out; the message says what to change."""


class PassFailed(RuntimeError):
    """The pass cannot handle a graph; the message says why. That graph trains exactly unless strict=True."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return " Did you mean 'bits'?" for the nearest of `allowed`, or '' if none is near."""
    nearest = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
