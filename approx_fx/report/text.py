"""The report as text for terminals and logs, and as HTML for notebooks."""

from __future__ import annotations

import html as escape_html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..encode.exact import REASONS
from ..joint.attribution import layer_pattern

if TYPE_CHECKING:
    from .data import Report


def size(count: float) -> str:
    """Format a number of bytes, such as '1.5 MiB'."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def group_identical_layers(rows: Sequence[Any]) -> list[tuple[Any, list[Any]]]:
    """Group the rows of identical layers: (first row, all rows), in order of first appearance."""
    groups: dict[Any, list[Any]] = {}
    for row in rows:
        groups.setdefault(row.layer, []).append(row)
    return [(group[0], group) for group in groups.values()]


NUMBERS = frozenset(["before", "after", "bits", "bytes", "error"])
COLUMNS = ("module", "op", "shape", "", "quantizer", "bits", "before", "after", "error", "read by", "source")


def cells(report: Report) -> list[list[str]]:
    """Table cells, one line for each group of identical coded tensors, the most bytes first."""
    lines = []
    for row, group in sorted(
        group_identical_layers(report.tensors), key=lambda pair: -sum(r.bytes_after for r in pair[1])
    ):
        before, after = sum(r.bytes_before for r in group), sum(r.bytes_after for r in group)
        quantizer = row.quantizer + ("+mask" if row.carries_mask else "")
        lines.append([
            _module(group), row.op, _shape(row), f"x{len(group)}" if len(group) > 1 else "", quantizer, str(row.bits),
            size(before), size(after), _errors(group), ", ".join(row.consumers), row.source,
        ])  # fmt: skip
    return lines


KEPT_COLUMNS = ("module", "op", "shape", "", "bytes", "reason")


def kept_cells(report: Report) -> list[list[str]]:
    """Table cells, one line for each group of identical tensors kept exact, the most bytes first."""
    return [
        [_module(group), row.op, _shape(row), f"x{len(group)}" if len(group) > 1 else "",
         size(sum(r.bytes for r in group)), f"{row.reason}: {REASONS[row.reason]}"]
        for row, group in sorted(group_identical_layers(report.kept), key=lambda pair: -sum(r.bytes for r in pair[1]))
    ]  # fmt: skip


def headline(report: Report) -> str:
    """The totals in one line."""
    peak = report.predicted_peak
    peak_before = f"{size(peak['before'])} -> " if peak["before"] else ""
    peak_text = f"predicted peak{_of_what(report)} {peak_before}{size(peak['after'])}, " if peak["after"] else ""
    line = (
        f"saved for backward: {size(report.saved_before)} -> {size(report.saved_after)} ({report.ratio:.1f}x smaller), "
        f"{peak_text}{len(report.graphs)} graph(s)"
    )
    if not report.graphs:
        return report.why_empty or "nothing was compiled for training yet: run a forward with gradients enabled first"
    return line


def _of_what(report: Report) -> str:
    """Words for the headline that say which step the predicted peak belongs to; none for an estimate from the graphs.

    A peak that is read off Inductor's code includes the loss.
    """
    return "" if getattr(report, "code_peak", None) is None else " of the step with its loss"


def failures(report: Report) -> list[str]:
    """One sentence for each graph that the pass left exact."""
    return [f"one graph trains exactly: {graph.failed}" for graph in report.graphs if graph.failed]


def losses(report: Report) -> list[str]:
    """One line for each large product, such as logits: whether it and its loss are computed in chunks."""
    return [f"logits and loss of {text}" for graph in report.graphs for text in graph.losses]


def as_text(report: Report) -> str:
    """The report as tables for a terminal or a log, 160 columns wide."""
    out = io.StringIO()
    console = Console(file=out, width=160, no_color=True)
    console.print(headline(report), soft_wrap=True)
    for line in (*failures(report), *losses(report)):
        console.print(line, soft_wrap=True)
    for title, columns, lines in (
        ("stored in few bits", COLUMNS, cells(report)),
        ("kept exact", KEPT_COLUMNS, kept_cells(report)),
    ):
        if lines:
            table = Table(title=title, title_justify="left")
            for column in columns:
                table.add_column(
                    column, justify="right" if column in ("before", "after", "bits", "bytes", "error") else "left"
                )
            for row in lines:
                table.add_row(*row)
            console.print(table)
    return out.getvalue()


CHECK_COLUMNS = ("module", "op", "", "encoding", "bits", "promised", "measured", "before", "action")


def check_as_text(
    values: Sequence[Any], cosines: Mapping[str, float], cosine: float, exact_graphs: Sequence[str]
) -> str:
    """What `approx_fx.check` measured, as a table 160 columns wide; identical layers in one line, with the largest."""
    groups: dict[Any, list[Any]] = {}
    for value in values:
        key = (layer_pattern(value.module), value.op, value.encoding, value.bits, value.action)
        groups.setdefault(key, []).append(value)
    out = io.StringIO()
    console = Console(file=out, width=160, no_color=True)
    table = Table(title="relative error of what the backward reads", title_justify="left")
    for column in CHECK_COLUMNS:
        table.add_column(column, justify="right" if column in ("bits", "promised", "measured", "before") else "left")
    for group in groups.values():
        errors = [value.measured for value in group if value.measured is not None]
        old = [value.before for value in group if value.before is not None]
        first = group[0]
        table.add_row(
            _module(group), first.op, f"x{len(group)}" if len(group) > 1 else "", first.encoding, str(first.bits),
            f"{max(value.promised for value in group):.3f}", f"{max(errors):.3f}" if errors else "",
            f"{max(old):.3f}" if old else "", first.action,
        )  # fmt: skip
    console.print(table)
    for reason in exact_graphs:
        console.print(f"one graph trains exactly: {reason}", soft_wrap=True)
    worst = sorted(cosines.items(), key=lambda item: item[1])[:3]
    lowest = ", ".join(f"{name} {value:.4f}" for name, value in worst)
    console.print(
        f"gradient cosine {cosine:.4f} with the exact gradient; lowest of a parameter: {lowest}", soft_wrap=True
    )
    return out.getvalue()


def as_html(report: Report) -> str:
    """The report as HTML tables."""
    parts = [f"<p><b>{_safe(headline(report))}</b></p>"]
    parts += [f"<p>{_safe(line)}</p>" for line in failures(report)]
    for title, columns, lines in (
        ("stored in few bits", COLUMNS, cells(report)),
        ("kept exact", KEPT_COLUMNS, kept_cells(report)),
    ):
        if lines:
            head = "".join(f"<th>{_safe(column)}</th>" for column in columns)
            body = "".join("<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in line) + "</tr>" for line in lines)
            parts.append(f"<table><caption>{title}</caption><tr>{head}</tr>{body}</table>")
    return "".join(parts)


def _errors(rows: Sequence[Any]) -> str:
    """The largest measured error of identical layers, or the promised one where none was measured, marked by a ~."""
    measured = [row.measured for row in rows if row.measured is not None]
    return f"{max(measured):.3f}" if measured else f"~{max(row.error for row in rows):.3f}"


def _safe(value: str) -> str:
    return escape_html.escape(value)


def _shape(row: Any) -> str:
    return "x".join(map(str, row.shape)) + f" {row.dtype}"


def _module(rows: list[Any]) -> str:
    """The module path of identical layers, with '*' for the parts that differ."""
    paths = [row.module for row in rows]
    if len(set(paths)) == 1:
        return paths[0]
    parts = [path.split(".") for path in paths]
    if len({len(part) for part in parts}) > 1:
        return f"{paths[0]} ..."
    return ".".join(column[0] if len(set(column)) == 1 else "*" for column in zip(*parts, strict=True))
