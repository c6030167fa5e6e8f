"""Generated tables in a Markdown file: each stands between `<!-- table: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

from collections.abc import Mapping

from tools.lib.user_errors import UserError

END = "<!-- end -->"


def fill(text: str, tables: Mapping[str, str], name: str) -> str:
    """`text` with each table in its place. name: of the file, for the error.

    Raises:
        UserError: a table has no place.
    """
    for key, content in tables.items():
        start = f"<!-- table: {key} -->"
        before, found, rest = text.partition(start)
        _, end, after = rest.partition(END)
        if not found or not end:
            raise UserError(f"{name} has no line {start} with {END} behind it.")
        text = f"{before}{start}\n{content}\n{END}{after}"
    return text
