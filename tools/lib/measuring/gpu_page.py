"""Render the results of tools/gpu.py as Markdown, with one heading for each section."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tools.lib.measuring.pages import comparison, head, table

Json = dict[str, Any]


def render(data: Json, titles: dict[str, str]) -> str:
    """The Markdown page. data: an environment with `sections`, name -> result; titles: name -> heading, in order."""
    lines = head("On a GPU", data)
    lines += [f"{data['seconds']:.0f} s of {data['allowed_seconds']:.0f} s; `make gpu`.", ""]
    for name, title in titles.items():
        lines += [f"## {title}", ""]
        result = data["sections"].get(name)
        if result is None:
            lines += ["Not run.", ""]
            continue
        if result.get("failed"):
            lines += [f"Failed: {result['failed']}", ""]
        if result.get("left_out"):
            lines += [f"Left out: {result['left_out']}.", ""]
        try:
            lines += RENDERERS.get(name, lambda _: [])(result)
        except (KeyError, TypeError, ValueError) as error:
            lines += [f"(what was measured cannot be shown: {type(error).__name__}: {error})", ""]
        lines += [f"{result.get('seconds', 0):.0f} s.", ""]
    return "\n".join(lines)


def _ops(result: Json) -> list[str]:
    if "passed" not in result:
        return []
    names = ("passed", "failed_tests", "skipped", "unfinished")
    lines = table(("passed", "failed", "skipped", "not reached"), [[str(result[name]) for name in names]])
    return [*lines, "", *(f"- failed: `{name}`" for name in result["failures"]), ""]


def _bandwidth(result: Json) -> list[str]:
    if "rows" not in result:
        return []
    rows = [
        [row["op"], row["dtype"], row["kind"], row["failed"], "-"] if "failed" in row
        else [row["op"], row["dtype"], row["kind"], f"{row['gigabytes_per_second']:.0f} GB/s", f"{row['share']:.0%}"]
        for row in result["rows"]
    ]  # fmt: skip
    lines = [f"A copy on the device: {result['copy_gigabytes_per_second']:.0f} GB/s, read and written.", ""]
    return [*lines, *table(("op", "dtype", "kind", "read and written", "share of the copy"), rows), ""]


def _largest(result: Json) -> list[str]:
    rows = []
    for system in ("compile", "approx_fx"):
        run = result.get(system)
        if run is not None:
            speed, peak = run.get("samples_per_second"), run.get("peak_bytes")
            rows.append([system, str(run.get("batch", "-")), f"{speed:.0f}" if speed else "-",
                         f"{peak / 2**30:.1f} GiB" if peak else "-", run.get("failed", "")])  # fmt: skip
    return [*table(("system", "batch", "samples/s", "peak", "failed"), rows), "", result.get("how", ""), ""]


def _networks(result: Json) -> list[str]:
    lines = []
    for name, network in result.items():
        if isinstance(network, dict):
            lines += comparison(f"{name}, batch {network.get('batch', '-')}", network)
    return lines


def _cifar10(result: Json) -> list[str]:
    rows = [["exact" if run["bits"] is None else str(run["bits"]),
             ", ".join(f"{value:.2%}" for value in run["test_accuracy"]),
             f"{run['seconds']:.0f} s" if run["seconds"] else "-"] for run in result.get("runs", [])]  # fmt: skip
    return [*table(("bits", "test accuracy after each epoch", "training"), rows), ""] if rows else []


RENDERERS: dict[str, Callable[[Json], list[str]]] = {
    "ops": _ops,
    "bandwidth": _bandwidth,
    "largest": _largest,
    "networks": _networks,
    "deep": _networks,
    "cifar10": _cifar10,
}
