"""Measure everything that needs a CUDA GPU, in at most nine minutes; without a GPU, say so and exit.

    python tools/gpu.py [--out FOLDER] [--minutes 9] [--only ops,networks]

Needs torch, triton, networkx, scipy, typer, rich, matplotlib, numpy and pytest; approx_fx need not be installed.
Results go to gpu-DEVICE.json and .md in --out, else in the folder named by the environment variable OUT, else in
docs/results. The files are rewritten after each measurement, so that stopping the command loses nothing.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

if not __package__:
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import typer

from tools.lib.checkpoint import write_text
from tools.lib.cli_common import errors_as_sentences
from tools.lib.measuring import gpu_sections
from tools.lib.measuring.deadline import Deadline, run_section
from tools.lib.measuring.environment import device_slug, environment
from tools.lib.measuring.gpu_page import render
from tools.lib.measuring.gpu_sections import NETWORKS, SECTIONS, Section, child
from tools.lib.repo_path import ROOT
from tools.lib.user_errors import pick

SHORTEST = 10.0
"""A section is not started with fewer seconds left than this."""
DEFAULT_NETWORKS = [name for name in NETWORKS if name not in gpu_sections.DEEP]
app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    out: Annotated[Path | None, typer.Option(help="folder of the results")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="the whole run's time")] = 9.0,
    only: Annotated[str, typer.Option(help=f"of {', '.join(section.name for section in SECTIONS)}")] = "",
    networks: Annotated[str, typer.Option(help=f"of {', '.join(NETWORKS)}")] = ",".join(DEFAULT_NETWORKS),
    section: Annotated[str, typer.Option(hidden=True)] = "",
    part: Annotated[Path | None, typer.Option(hidden=True)] = None,
    before: Annotated[Path | None, typer.Option(hidden=True)] = None,
    seconds: Annotated[float, typer.Option(hidden=True)] = 0.0,
) -> None:
    """Measure on the GPU."""
    deadline = Deadline(60 * minutes - 10)
    with errors_as_sentences():
        nets = [pick("network", name.strip(), NETWORKS) for name in networks.split(",") if name.strip()]
        sections = {known.name: known for known in SECTIONS}
        sections["networks"] = replace(sections["networks"], run=partial(gpu_sections.networks, names=nets))
        if section and part and before:
            child(sections[section], part, seconds, before)
            return
        chosen = [sections[pick("section", name.strip(), sections)] for name in only.split(",") if name.strip()]
        import torch

        if not torch.cuda.is_available():
            typer.echo("There is no CUDA GPU here, so nothing was measured.")
            return
        folder = out or Path(os.environ.get("OUT") or ROOT / "docs" / "results")
        folder.mkdir(parents=True, exist_ok=True)
        run_all(chosen or list(sections.values()), nets, deadline, folder / f"gpu-{device_slug()}", environment())


def run_all(
    sections: list[Section], nets: list[str], deadline: Deadline, stem: Path, data: dict[str, Any]
) -> dict[str, Any]:
    """Run sections, each within its allowance; keep STEM.json and STEM.md up to date and return the results.

    Sections that need not run alone run first, at the same time; then the others, one after the other.
    """
    titles = {section.name: section.title for section in sections}
    data = {**data, "allowed_seconds": deadline.seconds, "sections": {}}
    lock = threading.Lock()

    def store(name: str, result: dict[str, Any]) -> None:
        with lock:
            data["sections"][name] = result
            data["seconds"] = deadline.seconds - deadline.left()
            write_text(stem.with_name(stem.name + ".json"), json.dumps(data, indent=1) + "\n")
            write_text(stem.with_name(stem.name + ".md"), render(data, titles))

    concurrent = [
        threading.Thread(target=run_one, args=(section, nets, deadline, data["sections"], partial(store, section.name)))
        for section in sections if not section.alone
    ]  # fmt: skip
    for thread in concurrent:
        thread.start()
    for thread in concurrent:
        thread.join()
    for section in sections:
        if section.alone:
            run_one(section, nets, deadline, data["sections"], partial(store, section.name))
    typer.echo(f"Results are in {stem}.json and {stem.name}.md")
    return data


def run_one(
    section: Section,
    nets: list[str],
    deadline: Deadline,
    before: dict[str, Any],
    store: Callable[[dict[str, Any]], None],
) -> None:
    """Run one section in a separate process. before: results of earlier sections; store: called with each new state."""
    allowed = deadline.allowance(section.seconds)
    if allowed < SHORTEST:
        store({"left_out": "the time of the whole run was over", "seconds": 0.0})
        return
    typer.echo(f"{section.title}: {allowed:.0f} s at most")
    with tempfile.TemporaryDirectory() as scratch:
        part, earlier = Path(scratch) / "part.json", Path(scratch) / "before.json"
        earlier.write_text(json.dumps(dict(before)))
        command = [sys.executable, str(Path(__file__).resolve()), "--section", section.name, "--part", str(part)]
        command += ["--before", str(earlier), "--seconds", str(allowed), "--networks", ",".join(nets)]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        result = run_section(command, part, allowed, store, {**os.environ, "PYTHONPATH": path})
    typer.echo(f"{section.title}: {result['failed'] or 'done'}, {result['seconds']:.0f} s")


if __name__ == "__main__":
    app()
