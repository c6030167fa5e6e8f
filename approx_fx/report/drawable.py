"""The report of `explain`: it holds the graphs, and so it can be drawn."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .data import Report
from .files import write
from .partitions import BothPartitions
from .text import as_html
from .view.picture import Picture, picture


@dataclass(frozen=True)
class Explained(Report):
    """A report with pictures. seen: all there is to draw of each graph."""

    seen: tuple[BothPartitions, ...] = field(default=(), repr=False, compare=False)

    @cached_property
    def pictures(self) -> tuple[Picture, ...]:  # type: ignore[override]
        """Each graph as plain data for drawing."""
        return tuple(map(picture, self.seen))

    def __getstate__(self) -> dict[str, Any]:
        """For pickles and copies: plain data, without the graphs themselves."""
        return {**self.__dict__, "pictures": self.pictures, "seen": ()}

    def save_html(self, path: str | Path) -> Path:
        """Write one HTML file with ribbon, timeline, graph and table; returns its path.

        Raises ApproxFxError if nothing was compiled, the file cannot be written, or bokeh is missing.
        """
        from .view.html import page

        write(Path(path), page(self))
        return Path(path)

    def _repr_html_(self) -> str:
        """Summary, timeline (where matplotlib is there) and tables, for a notebook."""
        tables = as_html(self)
        if not self.pictures or importlib.util.find_spec("matplotlib") is None:
            return tables
        from .view.static import timeline_svg

        head, _, rest = tables.partition("</p>")
        return f"{head}</p>{timeline_svg(self)}{rest}"
