"""Errors of the user, with messages that say what was given, what is allowed and the nearest valid spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can correct; the command lines print it without a traceback."""


def pick(what: str, given: str, allowed: Iterable[str]) -> str:
    """Return `given` if it is one of `allowed`.

    Raises:
        UserError: it is not; the message names `what`, every allowed value and the nearest spelling.
    """
    names = list(allowed)
    if given in names:
        return given
    nearest = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise UserError(f"There is no {what} {given!r}; known are {', '.join(names)}.{hint}")
