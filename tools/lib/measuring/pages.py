"""Render results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tools.lib.measuring.calculations import dominated, pareto
from tools.lib.measuring.environment import revision_note

COLUMNS = (
    "system", "step", "quartiles", "forward", "backward", "GPU busy", "compile, cold", "warm", "saved", "peak",
    "samples/s", "gradient cosine", "loss equal",
)  # fmt: skip


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a Markdown table, the first column left-aligned, the others right-aligned."""
    names = list(columns)
    lines = [_row(names), _row(["---", *["---:"] * (len(names) - 1)])]
    return [*lines, *(_row(list(cells)) for cells in rows)]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def number(run: Mapping[str, Any], key: str, unit: float, form: str) -> str:
    """run[key] / unit as text; a dash if it was not measured."""
    value = run.get(key)
    return form.format(value / unit) if value is not None else "-"


def run_row(name: str, run: Mapping[str, Any]) -> list[str]:
    """One system's table cells, in the order of COLUMNS. Throughput is samples of a step / median step time."""
    if "failed" in run:
        return [f"{name}: failed", *["-"] * (len(COLUMNS) - 1)]
    low, high = run.get("step_quartiles", (None, None))
    samples = run.get("samples")
    gradient = run.get("gradient")
    return [
        name,
        number(run, "step_seconds", 1e-3, "{:.1f} ms"),
        "-" if low is None else f"{1e3 * low:.1f} to {1e3 * high:.1f}",
        number(run, "forward_seconds", 1e-3, "{:.1f} ms"),
        number(run, "backward_seconds", 1e-3, "{:.1f} ms"),
        number(run, "busy_seconds", 1e-3, "{:.1f} ms"),
        number(run, "compile_seconds", 1, "{:.1f} s"),
        number(run, "warm_seconds", 1, "{:.1f} s"),
        number(run, "saved_bytes", 2**20, "{:.1f} MiB"),
        number(run, "peak_bytes", 2**20, "{:.1f} MiB"),
        "-" if not samples or "step_seconds" not in run else f"{samples / run['step_seconds']:.1f}",
        "-" if gradient is None else f"{gradient['cosine']:.5f}",
        {True: "yes", False: "no"}.get(run.get("loss_equal"), "-"),  # type: ignore[arg-type]
    ]


def comparison(title: str, result: Mapping[str, Any]) -> list[str]:
    """The lines of one comparison: heading, table, ratios, dominated systems and failures."""
    lines = [f"### {title}", ""]
    if "failed" in result:
        return [*lines, f"Failed: {result['failed']}", ""]
    runs = result["runs"]
    lines += [*table(COLUMNS, (run_row(name, run) for name, run in runs.items())), ""]
    ratio = result.get("ratio")
    if ratio:
        lines += [
            f"approx_fx against {result['against']}: step {ratio['step']:.2f}x, compile {ratio['compile']:.2f}x "
            f"(lower is better); peak {ratio['peak']:.1f}x, saved {ratio['saved']:.1f}x smaller.",
            "",
        ]
    worse = sorted(dominated(pareto(runs)))
    if worse:
        lines += [f"Slower and larger than another, or no better: {', '.join(worse)}.", ""]
    lines += [f"- failed: {run['failed']}" for run in runs.values() if "failed" in run]
    return [*lines, ""] if lines[-1] else lines


def head(title: str, environment: Mapping[str, Any]) -> list[str]:
    """The lines of a page's title and of where its results were measured."""
    triton = f", triton {environment['triton']}" if environment.get("triton") else ""
    return [
        f"# {title}",
        "",
        f"{environment['device']}, {environment['cpus']} CPUs, torch {environment['torch']}{triton}, "
        f"Python {environment['python']}, {environment['date']}{revision_note(environment)}; "
        f"`{environment['command']}`",
        "",
    ]
