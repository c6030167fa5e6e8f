"""The paper's experiments, and those its reviewers asked for.

    python -m tools.reproduce all --quick     every experiment in CI's size, minutes
    python -m tools.reproduce accuracy        one experiment, default size, two cores
    python -m tools.reproduce accuracy --full on a GPU
    python -m tools.reproduce tables          rewrite the tables of tools/reproduce/README.md

Finished runs are not repeated; interrupted ones continue.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from tools.lib.checkpoint import write_text
from tools.lib.cli_common import errors_as_sentences
from tools.lib.markdown_tables import fill
from tools.lib.repo_path import ROOT
from tools.lib.user_errors import pick
from tools.reproduce import (
    architectures,
    equation9,
    gradient_error,
    memory,
    memory_savers,
    optimizers,
)
from tools.reproduce.accuracy import ACCURACY
from tools.reproduce.banner import BANNER
from tools.reproduce.directions import DIRECTIONS
from tools.reproduce.sizes import DEFAULT, Size, size_of

README = ROOT / "tools" / "reproduce" / "README.md"
console = Console()
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Experiment:
    """One experiment. measure: runs what is missing in a folder; page: returns the Markdown table of its results."""

    name: str
    about: str
    measure: Callable[[Size, Path], None]
    page: Callable[[Size, Path], str]


TABLE = (
    Experiment("equation9", "what Eq. 9 does", equation9.measure, equation9.page),
    Experiment("accuracy", "exact, 8, 4, 2 bits, naive, the paper's grid", ACCURACY.measure, ACCURACY.page),
    Experiment("memory", "depth 20 to 1001: saved, peak, largest batch", memory.measure, memory.page),
    Experiment("banner", "Range BN and 8 bits everywhere", BANNER.measure, BANNER.page),
    Experiment("directions", "approximate forward against approximate backward", DIRECTIONS.measure, DIRECTIONS.page),
    Experiment("architectures", "VGG, DenseNet, sigmoid, tanh, LSTM, Transformer", architectures.measure,
               architectures.page),
    Experiment("optimizers", "SGD, Adam, AdamW, RMSprop", optimizers.measure, optimizers.page),
    Experiment("savers", "other memory savers", memory_savers.measure, memory_savers.page),
    Experiment("gradient-error", "by bits, depth, layer, training time; bias and variance", gradient_error.measure,
               gradient_error.page),
)  # fmt: skip
EXPERIMENTS = {experiment.name: experiment for experiment in TABLE}
NAMES = ", ".join(("all", *EXPERIMENTS, "tables"))


@app.command(help=__doc__)
def main(
    name: Annotated[str, typer.Argument(help=f"One of {NAMES}.")],
    quick: Annotated[bool, typer.Option("--quick", help="The size of CI: minutes, no figure to quote.")] = False,
    full: Annotated[bool, typer.Option("--full", help="The paper's size, for a GPU.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
) -> None:
    """Run the parts of NAME that are not done yet."""
    with errors_as_sentences():
        pick("experiment", name, ("all", *EXPERIMENTS, "tables"))
        size = size_of(quick, full)
        folder = out or size.out
        if name == "tables":
            write_tables()
            return
        for experiment in TABLE if name == "all" else (EXPERIMENTS[name],):
            start = time.perf_counter()
            experiment.measure(size, folder)
            console.print(f"[bold]{experiment.name}[/]: {experiment.about}, {time.perf_counter() - start:.0f} s")
            console.print(Markdown(experiment.page(size, folder)))
        console.print(f"Runs, tables' figures and pictures are in {folder}", soft_wrap=True)


def write_tables() -> None:
    """Rewrite the tables of the README from the default size's results."""
    tables = {experiment.name: experiment.page(DEFAULT, DEFAULT.out) for experiment in TABLE}
    write_text(README, fill(README.read_text(encoding="utf-8"), tables, README.name))


if __name__ == "__main__":
    app()
