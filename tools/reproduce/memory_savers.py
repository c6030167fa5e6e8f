"""Other methods that save memory, measured alike: time, memory, gradient and accuracy of each in one table."""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from approx_fx.bench.baselines import config_of
from approx_fx.bench.worker import Job, ask, worker
from approx_fx.config import Config
from tools.lib.checkpoint import write_text
from tools.lib.measuring.environment import environment
from tools.reproduce.comparison import by_seed, error_of, foot, read_main, train_main
from tools.reproduce.run_cache import Json
from tools.reproduce.sizes import Size
from tools.reproduce.table_cells import paired, table, with_error

NETS = "tools.reproduce.nets"
BATCH = 64
STEPS = 7
MEBI = 2**20


@dataclass(frozen=True)
class Saver:
    """One line of the table. system, target: what the worker runs; method: whose training runs give its accuracy.

    method is None if the gradient is exact up to the order of summation. same_net: its gradient can be compared with
    the main net's. inductor: it needs a C++ compiler.
    """

    name: str
    system: str
    target: str
    method: str | None
    same_net: bool = True
    inductor: bool = False


TABLE = (
    Saver("eager PyTorch", "eager", "main", None),
    Saver("torch.compile", "compile", "main", "exact", inductor=True),
    Saver("approx_fx, 8 bits", "approx_fx@8", "main", "ours-8"),
    Saver("approx_fx, 4 bits", "approx_fx@4", "main", "ours-4"),
    Saver("approx_fx, 2 bits", "approx_fx@2", "main", "ours-2"),
    Saver("checkpoint, compiled", "checkpoint", "main", None, inductor=True),
    Saver("checkpoint, eager", "checkpoint-eager", "main", None),
    Saver("memory budget 0.5", "budget", "main", None, inductor=True),
    Saver("torch's fp8 pass", "fp8", "main", "fp8", inductor=True),
    Saver("RevNet, eager", "eager", "revnet", "revnet", same_net=False),
    Saver("offload to the host, eager", "eager", "offload", None),
    Saver("ActNN's scheme, 2 bits, eager", "eager", "actnn", "actnn-2"),
    Saver("Banner et al., 8 bits, eager", "eager", "banner", "banner-8", same_net=False),
)
TRAINED = ("exact", "ours-8", "ours-4", "ours-2", "fp8", "revnet", "actnn-2", "banner-8")
HEADS = ("saver", "step, ms", "saved, MiB", "peak, MiB", "gradient cosine", "test error % minus exact's")


def savers_of(size: Size) -> tuple[Saver, ...]:
    """The savers that can run: without a C++ compiler if the size uses none, and offloading only on a GPU."""
    available = [saver for saver in TABLE if size.compiler == "inductor" or not saver.inductor]
    return tuple(saver for saver in available if saver.target != "offload" or torch.cuda.is_available())


def measure(size: Size, out: Path) -> None:
    """Measure alternating steps of every saver, unless they are stored; then train the missing runs."""
    path = out / "savers.json"
    if not path.exists():
        rows = steps_of(savers_of(size), Config(compiler=size.compiler), BATCH, STEPS)
        write_text(path, json.dumps({**environment(), "batch": BATCH, "steps": STEPS, "rows": rows}, indent=1) + "\n")
    train_main(size, out, [name for name in TRAINED if size.compiler == "inductor" or name != "fp8"])


def steps_of(savers: tuple[Saver, ...], config: Config, batch: int, steps: int) -> dict[str, Json]:
    """Saver -> step_seconds (median of alternating steps), saved_bytes, peak_bytes, cosine (None: other net)."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        measured: dict[str, dict[str, Any]] = {}
        workers: dict[str, Connection] = {}
        for index, saver in enumerate(savers):
            job_folder, saver_config = Path(folder) / str(index), config_of(saver.system, config)
            job = Job(saver.system, f"{NETS}:{saver.target}", batch, "float32", saver_config, str(job_folder))
            workers[saver.name] = stack.enter_context(worker(job))
            print(f"{saver.name}: first step, memory", flush=True)
            measured[saver.name] = {
                **ask(workers[saver.name], "first"),
                **ask(workers[saver.name], "memory"),
                "seconds": [],
            }
            measured[saver.name]["gradient"] = torch.load(job_folder / "gradients.pt", weights_only=True)
        for _ in range(steps):
            for saver in savers:
                measured[saver.name]["seconds"].append(ask(workers[saver.name], "step")["seconds"])
    exact = measured[savers[0].name]["gradient"]
    return {saver.name: _row(saver, measured[saver.name], exact) for saver in savers}


def _row(saver: Saver, result: dict[str, Any], exact: Tensor) -> Json:
    gradient = result["gradient"]
    return {
        "step_seconds": statistics.median(result["seconds"]),
        "compile_seconds": result["compile_seconds"],
        "saved_bytes": result["saved_bytes"],
        "peak_bytes": result["peak_bytes"],
        "cosine": float(gradient @ exact / (gradient.norm() * exact.norm())) if saver.same_net else None,
    }


def page(size: Size, out: Path) -> str:
    """The Markdown table of the savers, with its footnote."""
    path = out / "savers.json"
    if not path.exists():
        return "Not measured yet: `python -m tools.reproduce savers`"
    data = json.loads(path.read_text(encoding="utf-8"))
    runs = read_main(size, out, TRAINED)
    exact = by_seed(runs.get("exact", ()), error_of)
    rows = []
    for saver in TABLE:
        if saver.name not in data["rows"]:
            continue
        row = data["rows"][saver.name]
        cosine = "another net" if row["cosine"] is None else f"{row['cosine']:.5f}"
        rows.append((
            saver.name, f"{1000 * row['step_seconds']:.0f}", f"{row['saved_bytes'] / MEBI:.1f}",
            f"{row['peak_bytes'] / MEBI:.1f}", cosine, _accuracy(saver, runs, exact),
        ))  # fmt: skip
    count, where = (
        data["batch"],
        f"{data['device']}, {data['threads']} threads, torch {data['torch']}, {data['date'][:10]}",
    )
    return (
        f"{table(HEADS, rows)}\n\nStep, memory and gradient: the main net on {count} images of 32x32 noise, medians of "
        f"{data['steps']} alternated steps; {where}. Accuracy: {foot(runs, 'python -m tools.reproduce savers')}"
    )


def _accuracy(saver: Saver, runs: dict[str, list[Json]], exact: dict[int, float]) -> str:
    if saver.method is None:
        return "exact gradient"
    if saver.method == "exact":
        return "0"
    return with_error(paired(by_seed(runs.get(saver.method, ()), error_of), exact)) or "not trained"
