"""Compare the peak of a training step with torch.compile's, for every model of the zoo and every factory of models/.

    python tools/zoo_peaks.py [--only gpt2,resnet18]        float32, 4 bits; an hour on one core

The loss is in the graph: a factory's own, otherwise the mean square of all float outputs. Peaks are those of Inductor's
code for a CPU (`approx_fx.bench.code_peak`); nothing is run. Results go to docs/results/zoo-peaks.json, model by model.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import time
from collections.abc import Callable
from typing import Annotated, Any

if not __package__:
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import typer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import models
from approx_fx.bench.code_peak import code_peak
from approx_fx.bench.target import Target, load, loss_inside
from tools.lib.checkpoint import write_text
from tools.lib.measuring.environment import environment
from tools.lib.repo_path import ROOT
from tools.lib.torchvision_import import import_torchvision
from tools.lib.zoo_models import ZOO

RESULTS = ROOT / "docs" / "results" / "zoo-peaks.json"
SMALL = 4  # batch of the factories


def mean_square(output: Any) -> Tensor:
    """The mean square of each float output, summed."""
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return torch.stack([leaf.float().square().mean() for leaf in leaves]).sum()


def targets() -> dict[str, Callable[[], Target]]:
    """Name -> what makes the model and its inputs, with a loss."""
    result: dict[str, Callable[[], Target]] = {}
    for name, make in ZOO.items():
        result[name] = lambda name=name, make=make: Target(name, *make(), loss=mean_square)  # type: ignore[misc]
    for path in sorted((ROOT / "models").glob("*.py")):
        module = __import__(f"{models.__name__}.{path.stem}", fromlist=[path.stem])
        for name, function in vars(module).items():
            is_here = inspect.isfunction(function) and function.__module__ == module.__name__
            if is_here and list(inspect.signature(function).parameters)[:1] == ["batch"]:
                target = f"models.{path.stem}:{name}"
                result[target] = lambda target=target: load(target, SMALL)  # type: ignore[misc]
    return result


def measured(make: Callable[[], Target]) -> dict[str, Any]:
    """The peaks of a model, or why there are none."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    start = time.perf_counter()
    try:
        target = make()
        model: nn.Module = loss_inside(target.model, target.loss if target.has_loss else mean_square)
        peaks: dict[str, Any] = dict(code_peak(model, *target.inputs, options={"bits": 4}, **target.keywords))
    except Exception as error:
        peaks = {"failed": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"}
    return {**peaks, "seconds": round(time.perf_counter() - start, 1)}


def main(
    only: Annotated[str, typer.Option(help="comma-separated parts of names")] = "",
    again: Annotated[bool, typer.Option(help="also those that are measured at this revision")] = False,
) -> None:
    """Measure the models and write the results; those of models that are not in `only` stay unchanged."""
    import_torchvision()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in ("torch._dynamo", "approx_fx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    made = environment()
    rows: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text())["models"] if RESULTS.exists() else {}
    parts = [part.strip() for part in only.split(",") if part.strip()]
    for name, make in targets().items():
        is_known = rows.get(name, {}).get("revision") == made["revision"] and not again
        if is_known or (parts and not any(part in name for part in parts)):
            continue
        rows[name] = {**measured(make), "revision": made["revision"]}
        print(name, rows[name], flush=True)
        write_text(RESULTS, json.dumps({**made, "models": rows}, indent=1) + "\n")
    larger = [name for name, row in rows.items() if "failed" not in row and row["after"] > row["before"]]
    failed = [name for name, row in rows.items() if "failed" in row]
    print(f"{len(rows)} models; larger than torch.compile's: {larger or 'none'}; without figures: {failed or 'none'}")


if __name__ == "__main__":
    typer.run(main)
