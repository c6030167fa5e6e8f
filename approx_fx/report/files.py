"""Write the files that a user asked for."""

from __future__ import annotations

from pathlib import Path

from ..errors import ApproxFxError


def write(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8. Raises ApproxFxError if the file cannot be written."""
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise ApproxFxError(f"cannot write {str(path)!r}: {error.strerror}.") from error
