"""Measures what the measuring of the first step costs, in times of the compiled forward.

    python tools/first_step.py          resnet18_cifar at batch 128, about a minute; --target, --batch

float32, Inductor, 4 bits. The graph is measured once at least; each better plan is measured again, and is counted.
Results go to docs/results/first_step.json.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

if __name__ == "__main__":
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import typer
from torch._inductor.utils import fresh_cache

import approx_fx
from approx_fx.bench.target import load
from approx_fx.measure import first_step
from tools.lib.checkpoint import write_text
from tools.lib.measuring.environment import environment
from tools.lib.measuring.turns import median_seconds
from tools.lib.repo_path import ROOT

RESULTS = ROOT / "docs" / "results" / "first_step.json"
ROUNDS = 9


def measured(target: str, batch: int | None) -> dict[str, Any]:
    """Seconds of each measuring in the first step, and the median seconds of later forwards."""
    loaded = load(target, batch)
    walks: list[float] = []
    measure = first_step.measure

    def timed(*args: Any) -> Any:
        start = time.perf_counter()
        result = measure(*args)
        walks.append(time.perf_counter() - start)
        return result

    first_step.measure = timed  # type: ignore[assignment]
    try:
        approx_fx.convert(loaded.model, bits=4, strict=True)
        loaded.loss(loaded.model(*loaded.inputs, **loaded.keywords)).backward()
    finally:
        first_step.measure = measure
    steps = {"forward": lambda: loaded.model(*loaded.inputs, **loaded.keywords)}
    forward = median_seconds(steps, ROUNDS)["forward"]
    return {"target": target, "batch": batch, "walks": walks, "forward": forward, "forwards": sum(walks) / forward}


def main(
    target: Annotated[str, typer.Option(help="a factory, package.module:name")] = "models.resnet:resnet18_cifar",
    batch: Annotated[int, typer.Option(help="its batch")] = 128,
) -> None:
    """Measure in this process, print, and write the results."""
    torch.manual_seed(0)
    with fresh_cache():  # a graph from the cache was measured before
        result = measured(target, batch)
    print(f"measuring takes {result['forwards']:.2f} forwards of {result['forward']:.2f} s")
    write_text(RESULTS, json.dumps({**environment(), **result}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
