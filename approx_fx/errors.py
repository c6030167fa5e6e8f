"""Errors a user can act on: what was given, what is allowed, the nearest valid spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ApproxFxError(ValueError):
    """A request that cannot be carried out, with the mend in its text."""


class PassFailed(RuntimeError):
    """The pass met a graph it cannot handle; the text says why. That graph trains exactly unless strict=True."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """' Did you mean 'bits'?' for the nearest of `allowed`, or '' if none is near."""
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
