"""Measure how long the pass takes on deep networks, and torch.compile's own partition of the same joint graphs.

    python tools/passes.py        writes docs/results/passes.json

A network is traced once; then both partitioners split copies of its joint graph in turn, as in a compile: after the
same joint passes, with the garbage collector paused and a raised recursion limit. approx_fx's seconds include those of
simplifying the graph, as torch does, and of asking torch's own minimum cut which tensors torch.compile would save, for
the report ("asking"). The halves are not compiled.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

if not __package__:
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import torch._inductor
import typer
from torch import fx

from approx_fx.backend import Partitioning
from approx_fx.bench.target import load
from approx_fx.config import Config
from approx_fx.errors import ApproxFxError
from approx_fx.inductor import compile as inductor
from approx_fx.torch_compat import aot_partitioner as aot
from approx_fx.torch_compat.lazy_graph_module import copy_graph_module
from tools.lib.checkpoint import write_text
from tools.lib.cli_common import errors_as_sentences
from tools.lib.measuring.environment import environment
from tools.lib.repo_path import ROOT
from tools.lib.user_errors import UserError

# target, batch: the time does not depend on the batch
TARGETS = (
    ("models.gpt:gpt_small", 1),
    ("models.resnet:resnet152", 1),
    ("models.preact_resnet:preact_resnet164", 1),
    ("models.densenet:densenet121", 1),
)
BITS = 4
RESULTS = ROOT / "docs" / "results"
Timed = Callable[[fx.GraphModule, Sequence[Any], dict[str, Any]], Any]
app = typer.Typer(add_completion=False, help=__doc__)


def partition_by_approx_fx(joint: fx.GraphModule, inputs: Sequence[Any], options: dict[str, Any]) -> None:
    """Run the pass, from a joint graph to two halves of aten ops; raises the errors of the pass."""
    Partitioning(Config(bits=BITS, strict=True), "passes")(joint, inputs, **options)


def partition_by_torch(joint: fx.GraphModule, inputs: Sequence[Any], options: dict[str, Any]) -> None:
    """Split by torch.compile's own partitioner."""
    aot.torch_partition(joint, inputs, **options)


def ask_what_torch_saves(joint: fx.GraphModule, _: Sequence[Any], options: dict[str, Any]) -> None:
    """Simplify the graph and find which tensors torch.compile's own partition would save, without splitting."""
    aot.saved_by_torch(aot.simplify_joint_graph(joint), options["num_fwd_outputs"])


TIMED: dict[str, Timed] = {
    "approx_fx": partition_by_approx_fx, "compile": partition_by_torch, "asking": ask_what_torch_saves,
}  # fmt: skip


def measure(target: str, batch: int | None, rounds: int) -> dict[str, Any]:
    """Time each of TIMED `rounds` times, in turn; return the nodes of the joint graph, the medians and all seconds.

    Raises UserError for a target that cannot be loaded, or whose step is not traced in one graph with a backward.
    """
    try:
        loaded = load(target, batch)
    except ApproxFxError as error:
        raise UserError(str(error)) from error
    rows: list[dict[str, Any]] = []

    def run(joint: fx.GraphModule, inputs: Sequence[Any], **options: Any) -> aot.Halves:
        times: dict[str, list[float]] = {name: [] for name in TIMED}
        for name in [name for _ in range(rounds) for name in TIMED]:
            joint_copy = copy_graph_module(joint)
            start = time.perf_counter()
            TIMED[name](joint_copy, inputs, options)
            times[name].append(time.perf_counter() - start)
            del joint_copy
            gc.collect()  # graphs are reference cycles; garbage left over would slow the next round
        seconds = {name: statistics.median(all_seconds) for name, all_seconds in times.items()}
        rows.append({"target": target, "nodes": len(joint.graph.nodes), "seconds": seconds, "all": times})
        return aot.torch_partition(joint, inputs, **options)

    def backend(module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        return inductor.compile_halves(module, inputs, inductor.Partitioner("passes", run))

    torch._dynamo.reset()
    torch.compile(loaded.model, backend=backend)(*loaded.inputs, **loaded.keywords)
    if len(rows) != 1:
        raise UserError(f"{target} is traced in {len(rows)} graphs with a backward; only a model in one can be timed.")
    return rows[0]


@app.command()
def main(
    targets: Annotated[str, typer.Option(help="package.module:factory, commas between")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="of which the median is taken")] = 5,
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Time the pass on each target; print the results and write passes.json."""
    with (
        errors_as_sentences(),
        torch._inductor.config.patch(force_disable_caches=True),
    ):  # so that the pass leaves no report
        rows = []
        for target, batch in [(name.strip(), 1) for name in targets.split(",") if name.strip()] or TARGETS:
            rows.append(measure(target, batch, rounds))
            seconds = rows[-1]["seconds"]
            typer.echo(
                f"{target}, {rows[-1]['nodes']} nodes: approx_fx {seconds['approx_fx']:.1f} s, of them "
                f"simplifying and asking {seconds['asking']:.1f} s; torch.compile {seconds['compile']:.1f} s"
            )
        write_text(out / "passes.json", json.dumps({**environment(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    app()
