"""The results of tools/gpu.py as Markdown, a part for each section."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tools.measuring.pages import comparison, head, table

Json = dict[str, Any]


def render(data: Json, titles: dict[str, str]) -> str:
    """The page. data: an environment with `sections`, name -> result; titles: name -> heading, in order."""
    lines = head("On a GPU", data)
    lines += [f"{data['seconds']:.0f} s of {data['allowed_seconds']:.0f} s; `make gpu`.", ""]
    for name, title in titles.items():
        lines += [f"## {title}", ""]
        found = data["sections"].get(name)
        if found is None:
            lines += ["Not run.", ""]
            continue
        if found.get("failed"):
            lines += [f"Failed: {found['failed']}", ""]
        if found.get("left_out"):
            lines += [f"Left out: {found['left_out']}.", ""]
        try:
            lines += RENDERERS.get(name, lambda _: [])(found)
        except (KeyError, TypeError, ValueError) as error:
            lines += [f"(what was measured cannot be shown: {type(error).__name__}: {error})", ""]
        lines += [f"{found.get('seconds', 0):.0f} s.", ""]
    return "\n".join(lines)


def _ops(found: Json) -> list[str]:
    if "passed" not in found:
        return []
    names = ("passed", "failed_tests", "skipped", "unfinished")
    lines = table(("passed", "failed", "skipped", "not reached"), [[str(found[name]) for name in names]])
    return [*lines, "", *(f"- failed: `{name}`" for name in found["failures"]), ""]


def _bandwidth(found: Json) -> list[str]:
    if "rows" not in found:
        return []
    rows = [
        [row["op"], row["dtype"], row["kind"], row["failed"], "-"] if "failed" in row
        else [row["op"], row["dtype"], row["kind"], f"{row['gigabytes_per_second']:.0f} GB/s", f"{row['share']:.0%}"]
        for row in found["rows"]
    ]  # fmt: skip
    lines = [f"A copy on the device: {found['copy_gigabytes_per_second']:.0f} GB/s, read and written.", ""]
    return [*lines, *table(("op", "dtype", "kind", "read and written", "share of the copy"), rows), ""]


def _largest(found: Json) -> list[str]:
    rows = []
    for system in ("compile", "approx_fx"):
        run = found.get(system)
        if run is not None:
            speed, peak = run.get("samples_per_second"), run.get("peak_bytes")
            rows.append([system, str(run.get("batch", "-")), f"{speed:.0f}" if speed else "-",
                         f"{peak / 2**30:.1f} GiB" if peak else "-", run.get("failed", "")])  # fmt: skip
    return [*table(("system", "batch", "samples/s", "peak", "failed"), rows), "", found.get("how", ""), ""]


def _networks(found: Json) -> list[str]:
    lines = []
    for name, result in found.items():
        if isinstance(result, dict):
            lines += comparison(f"{name}, batch {result.get('batch', '-')}", result)
    return lines


def _cifar10(found: Json) -> list[str]:
    rows = [["exact" if run["bits"] is None else str(run["bits"]),
             ", ".join(f"{value:.2%}" for value in run["test_accuracy"]),
             f"{run['seconds']:.0f} s" if run["seconds"] else "-"] for run in found.get("runs", [])]  # fmt: skip
    return [*table(("bits", "test accuracy after each epoch", "training"), rows), ""] if rows else []


RENDERERS: dict[str, Callable[[Json], list[str]]] = {
    "ops": _ops,
    "bandwidth": _bandwidth,
    "largest": _largest,
    "networks": _networks,
    "deep": _networks,
    "cifar10": _cifar10,
}
