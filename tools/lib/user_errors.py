"""Errors as sentences: what was given, what is allowed, the nearest valid spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the person at the keyboard can mend; the command lines print it without a traceback."""


def pick(what: str, given: str, allowed: Iterable[str]) -> str:
    """`given` if it is one of `allowed`.

    Raises:
        UserError: naming `what`, every allowed value and the nearest spelling.
    """
    names = list(allowed)
    if given in names:
        return given
    near = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(f"There is no {what} {given!r}; known are {', '.join(names)}.{hint}")
