"""Measure the effect of each addition to Inductor: step, first step and peak with all of them, and without each one."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

from approx_fx.bench.worker import Job, ask, worker
from approx_fx.config import Config
from approx_fx.inductor.patches import PATCHES
from approx_fx.inductor.post_grad import PASSES
from tools.lib.measuring.pages import table

Json = dict[str, Any]
ALL, TORCH = "all on", "torch.compile"
PARTS = (*(patch.name for patch in PATCHES), *(pass_.name for pass_ in PASSES), "peak_aware_fusion", "kernel_order")
# name -> target, batch; small networks, because each is compiled ten times
NETWORKS = {
    "preact_resnet20": ("models.preact_resnet:preact_resnet20", 64),
    "resnet18_cifar": ("models.resnet:resnet18_cifar", 32),
    "gpt_tiny": ("models.gpt:gpt_tiny", 8),
    "vit_small": ("models.vit:vit_small", 8),
}


def measure(target: str, batch: int, parts: list[str], rounds: int, config: Config, say: Callable[[str], None]) -> Json:
    """Measure first step (seconds) and peak (bytes) of each variant, then `rounds` steps of each, alternating.

    A variant is `ALL`, `TORCH`, or the name of the part that is switched off.
    """
    rows: Json = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        connections = {}
        for index, name in enumerate([ALL, TORCH, *parts]):
            system, disabled = ("compile" if name == TORCH else "approx_fx"), name if name in parts else ""
            job = Job(system, target, batch, "float32", config, f"{folder}/{index}", disable=disabled)
            connections[name] = stack.enter_context(worker(job))
            first = ask(connections[name], "first")["compile_seconds"]
            peak = ask(connections[name], "memory")["peak_bytes"]
            rows[name] = {"first_seconds": first, "peak_bytes": peak, "steps": []}
            say(f"{name}: first step {first:.1f} s, peak {peak / 2**20:.1f} MiB")
        for _ in range(rounds):
            for name, connection in connections.items():
                rows[name]["steps"].append(ask(connection, "step")["seconds"])
    for row in rows.values():
        row["step_seconds"] = statistics.median(row["steps"])
    return rows


def tables(entries: dict[str, Json]) -> str:
    """Markdown tables of all networks: each variant, and its ratios to the variant with everything on."""
    lines = []
    for name, rows in entries.items():
        all_on = rows[ALL]
        cells = [
            [
                variant if variant in (ALL, TORCH) else f"without {variant}",
                f"{row['step_seconds'] * 1e3:.0f} ms",
                f"{row['step_seconds'] / all_on['step_seconds']:.2f}x",
                f"{row['first_seconds']:.1f} s",
                f"{row['peak_bytes'] / 2**20:.1f} MiB",
                f"{row['peak_bytes'] / all_on['peak_bytes']:.2f}x",
            ]
            for variant, row in rows.items()
        ]
        lines += [f"## {name}", "", *table(["", "step", "of all on", "first step", "peak", "of all on"], cells), ""]
    return "\n".join(lines)
