"""Update generated tables in a Markdown file; each is between `<!-- table: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

from collections.abc import Mapping

from tools.lib.user_errors import UserError

END = "<!-- end -->"


def fill(text: str, tables: Mapping[str, str], name: str) -> str:
    """Replace each table of `tables` in `text`. name: of the file, for the error message.

    Raises:
        UserError: the text has no markers for a table.
    """
    for key, content in tables.items():
        start = f"<!-- table: {key} -->"
        before, start_found, remainder = text.partition(start)
        _, end_found, after = remainder.partition(END)
        if not start_found or not end_found:
            raise UserError(f"{name} has no line {start} with {END} behind it.")
        text = f"{before}{start}\n{content}\n{END}{after}"
    return text
