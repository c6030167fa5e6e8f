"""Measure a training step of every network under every system: time, compile time, memory and gradients.

    python tools/bench.py run                            the table, with its plot of time against memory
    python tools/bench.py batches models.gpt:gpt_tiny    throughput against batch
    python tools/bench.py depth                          peak against depth
    python tools/bench.py largest TARGET --memory-gib 1  the largest batch that fits, and its throughput
    python tools/bench.py patches                        what each part that is added to Inductor buys

Results go to docs/results/bench-DEVICE.json, .md and .png. Entries that the file already has are not measured again.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated

if not __package__:
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import typer

from approx_fx.config import Config
from tools.lib.checkpoint import write_text
from tools.lib.cli_common import errors_as_sentences
from tools.lib.measuring.benchmark import DEPTHS, DTYPES, NETWORKS, SYSTEMS, BenchmarkResults, choose
from tools.lib.measuring.environment import device_slug, environment
from tools.lib.measuring.pages import head
from tools.lib.measuring.patches import NETWORKS as PATCH_NETWORKS
from tools.lib.measuring.patches import PARTS, measure, tables
from tools.lib.measuring.plots import draw_lines, draw_pareto
from tools.lib.repo_path import ROOT
from tools.lib.user_errors import UserError

RESULTS = ROOT / "docs" / "results"
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

OUT = Annotated[Path, typer.Option(help="folder of the results")]
NAME = Annotated[str, typer.Option(help="name of the results; default bench-DEVICE")]
SYSTEMS_OPTION = Annotated[str, typer.Option(help=f"of {', '.join(SYSTEMS)}; approx_fx@B for B bits")]
STEPS = Annotated[int, typer.Option(min=1, help="timed steps of each system")]
DTYPE = Annotated[str, typer.Option(help=f"one of {', '.join(DTYPES)}")]
AGAIN = Annotated[bool, typer.Option("--again", help="measure what is there already, too")]
TARGET = Annotated[str, typer.Argument(help="package.module:factory or path/file.py:factory")]
ALL_SYSTEMS = ",".join(SYSTEMS)
DEFAULT_SYSTEMS = "approx_fx,compile,eager,checkpoint"


@app.command()
def run(
    networks: Annotated[str, typer.Option(help=f"of {', '.join(NETWORKS)}")] = ",".join(NETWORKS),
    systems: SYSTEMS_OPTION = ALL_SYSTEMS,
    dtypes: Annotated[str, typer.Option(help=f"of {', '.join(DTYPES)}")] = ",".join(DTYPES),
    steps: STEPS = 7,
    batch: Annotated[int | None, typer.Option(min=1, help="instead of each network's own")] = None,
    warm: Annotated[bool, typer.Option("--warm/--no-warm", help="measure a start with a filled cache")] = True,
    out: OUT = RESULTS,
    name: NAME = "",
    again: AGAIN = False,
) -> None:
    """Measure each network in each dtype under each system; approx_fx is at 4 bits."""
    with errors_as_sentences():
        chosen_networks, chosen_dtypes = choose("network", networks, NETWORKS), choose("dtype", dtypes, DTYPES)
        names = choose("system", systems, SYSTEMS)
        results = _open_results(out, name)
        for network in chosen_networks:
            for dtype in chosen_dtypes:
                key = f"{network} {dtype}"
                if key in results.data["entries"] and not again:
                    typer.echo(f"{key}: there already, --again measures it anew")
                    continue
                target, default_batch = NETWORKS[network]
                results.compare(key, target, batch or default_batch, dtype, names, steps, warm, typer.echo)
                _plot(results)
        typer.echo(results.means_line())


@app.command()
def batches(
    target: TARGET,
    sizes: Annotated[str, typer.Option(help="batches, with commas between")] = "8,16,32,64",
    systems: SYSTEMS_OPTION = DEFAULT_SYSTEMS,
    dtype: DTYPE = "float32",
    steps: STEPS = 5,
    out: OUT = RESULTS,
    name: NAME = "",
) -> None:
    """Measure throughput against batch; each system is compiled for each batch."""
    with errors_as_sentences():
        numbers = [part.strip() for part in sizes.split(",")]
        if not all(part.isdecimal() and int(part) > 0 for part in numbers):
            raise UserError(f"The batches are {sizes!r}; allowed are whole numbers from 1 up, with commas between.")
        results = _open_results(out, name)
        names = choose("system", systems, SYSTEMS)
        (chosen_dtype,) = choose("dtype", dtype, DTYPES)
        series = results.batches(target, [int(part) for part in numbers], chosen_dtype, names, steps, typer.echo)
        short = target.split(":")[-1]
        draw_lines(
            series, results.file(f"-batches-{short}.png"), ("batch", "samples per second", f"{short}, {chosen_dtype}")
        )


@app.command()
def depth(
    batch: Annotated[int, typer.Option(min=1)] = 64,
    depths: Annotated[str, typer.Option(help=f"of {', '.join(DEPTHS)}")] = ",".join(DEPTHS),
    systems: SYSTEMS_OPTION = DEFAULT_SYSTEMS,
    dtype: DTYPE = "float32",
    out: OUT = RESULTS,
    name: NAME = "",
) -> None:
    """Measure the peak against the depth of a pre-activation ResNet for CIFAR."""
    with errors_as_sentences():
        results = _open_results(out, name)
        chosen, names = choose("depth", depths, DEPTHS), choose("system", systems, SYSTEMS)
        (chosen_dtype,) = choose("dtype", dtype, DTYPES)
        series = results.depths(chosen, batch, chosen_dtype, names, typer.echo)
        draw_lines(
            series,
            results.file("-depth.png"),
            ("depth", "peak (MiB)", f"pre-activation ResNet, batch {batch}, {chosen_dtype}"),
        )


@app.command()
def largest(
    target: TARGET,
    memory_gib: Annotated[float, typer.Option(min=0.001, help="memory that the step may take")],
    systems: SYSTEMS_OPTION = "approx_fx,compile",
    small: Annotated[str, typer.Option(help="the two batches whose peaks are extrapolated")] = "8,16",
    dtype: DTYPE = "float32",
    steps: STEPS = 3,
    out: OUT = RESULTS,
    name: NAME = "",
) -> None:
    """Find the largest batch whose measured peak fits; on a GPU the memory is enforced and the batch bisected."""
    with errors_as_sentences():
        parts = [part.strip() for part in small.split(",")]
        if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts) or parts[0] == parts[1]:
            raise UserError(f"--small {small!r} is not allowed: two different batches, such as 8,16.")
        results = _open_results(out, name)
        names = choose("system", systems, SYSTEMS)
        (chosen_dtype,) = choose("dtype", dtype, DTYPES)
        one, two = sorted(map(int, parts))
        results.largest(target, memory_gib, chosen_dtype, names, (one, two), steps, typer.echo)


@app.command()
def patches(
    networks: Annotated[str, typer.Option(help=f"of {', '.join(PATCH_NETWORKS)}")] = ",".join(PATCH_NETWORKS),
    parts: Annotated[str, typer.Option(help=f"of {', '.join(PARTS)}")] = ",".join(PARTS),
    steps: STEPS = 21,
    simdlen: Annotated[int | None, typer.Option(help="vectors of so many bits, such as 256 for AVX2's")] = None,
    out: OUT = RESULTS,
    name: NAME = "",
) -> None:
    """Measure step, first step and peak with all additions to Inductor, and without each of them."""
    with errors_as_sentences():
        chosen_networks = choose("network", networks, PATCH_NETWORKS)
        chosen_parts = choose("part", parts, PARTS)
        config = Config(bits=4, inductor={} if simdlen is None else {"cpp.simdlen": simdlen})
        path = out / f"{name or f'patches-{device_slug()}'}.json"
        data = json.loads(path.read_text()) if path.exists() else {"entries": {}}
        for network in chosen_networks:
            target, batch = PATCH_NETWORKS[network]
            key = f"{network}, batch {batch}" + (f", vectors of {simdlen} bits" if simdlen else "")
            rows = measure(target, batch, chosen_parts, steps, config, typer.echo)
            data = {**data, **environment(), "entries": {**data["entries"], key: rows}}
            write_text(path, json.dumps(data, indent=1) + "\n")
            lines = [*head("What each part that is added to Inductor buys", data), tables(data["entries"])]
            write_text(path.with_suffix(".md"), "\n".join(lines))


@app.command()
def page(out: OUT = RESULTS, name: NAME = "") -> None:
    """Rewrite the Markdown and the plot from the JSON."""
    with errors_as_sentences():
        results = _open_results(out, name)
        results.write_page()
        _plot(results)


def _open_results(out: Path, name: str) -> BenchmarkResults:
    return BenchmarkResults(out, name or f"bench-{device_slug()}", datetime.date.today().isoformat())


def _plot(results: BenchmarkResults) -> None:
    draw_pareto(results.data["entries"], results.file(".png"))


if __name__ == "__main__":
    app()
