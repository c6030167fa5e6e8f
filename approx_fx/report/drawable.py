"""The report of `explain`, which keeps the graphs and can therefore be drawn."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .data import MeasuredValue, Report
from .files import write
from .partitions import BothPartitions
from .text import as_html
from .view.picture import Picture, picture


@dataclass(frozen=True)
class Explained(Report):
    """A report that can be drawn. both_partitions: each graph under torch's partition and under this pass's.

    code_peak: of the whole step, from Inductor's code, {'before', 'after'}; None for an estimate from the graphs.
    """

    both_partitions: tuple[BothPartitions, ...] = field(default=(), repr=False, compare=False)
    code_peak: dict[str, int] | None = None

    @property
    def predicted_peak(self) -> dict[str, int]:
        """`code_peak`, or the estimate from the graphs."""
        return super().predicted_peak if self.code_peak is None else self.code_peak

    @cached_property
    def pictures(self) -> tuple[Picture, ...]:  # type: ignore[override]
        """Each graph as plain data for drawing."""
        return tuple(map(picture, self.both_partitions))

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and copy the plain data of the pictures, without the graphs."""
        return {**self.__dict__, "pictures": self.pictures, "both_partitions": ()}

    def with_measured(self, values: Sequence[MeasuredValue]) -> Explained:
        """The report with measured errors, those of `approx_fx.check(...).values`, which the page then shows.

        Of a value that `check` found to be too far off, it is the error before something was done about it: that of the
        code in this report.
        """
        errors = {
            (value.name, value.module): value.measured if value.before is None else value.before for value in values
        }

        drawn = tuple(replace(both, report=both.report.with_errors(errors)) for both in self.both_partitions)
        return replace(self, graphs=tuple(graph.with_errors(errors) for graph in self.graphs), both_partitions=drawn)

    def save_html(self, path: str | Path) -> Path:
        """Write one HTML file with ribbon, timeline, graph and table; return its path.

        Raises ApproxFxError if nothing was compiled, the file cannot be written, or bokeh is missing.
        """
        from .view.html import page

        write(Path(path), page(self))
        return Path(path)

    def _repr_html_(self) -> str:
        """Summary, timeline (if matplotlib is installed) and tables, for a notebook."""
        tables = as_html(self)
        if not self.pictures or importlib.util.find_spec("matplotlib") is None:
            return tables
        from .view.static import timeline_svg

        headline, _, tables_after = tables.partition("</p>")
        return f"{headline}</p>{timeline_svg(self)}{tables_after}"
