"""Count the bytes that a step moves and keeps alive on a GPU, from the code generated for it, on a machine without one.

    python tools/gpu_code.py        writes docs/results/gpu-code.json, in a quarter of an hour

Each network is compiled for an H100 in bfloat16, by torch.compile and at 4 bits. The bytes that Triton's kernels read
and write are counted, each buffer once a kernel. Convolutions, matrix products and attention are not counted; except
for the gradient of an image they read and write the same in both. The peak follows from the allocations in the code,
without parameters, inputs and workspace. Nothing is run.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

if not __package__:
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import typer

from approx_fx.bench.target import load
from approx_fx.peak.timeline import accesses, predict
from tools.lib.checkpoint import write_text
from tools.lib.measuring.environment import environment, revision_note
from tools.lib.measuring.triton_code import triton_code
from tools.lib.repo_path import ROOT

BITS = 4
# target, batch, whether the model is channels-last
NETWORKS = (
    ("models.resnet:resnet50", 128, True),
    ("models.resnet:resnet18_cifar", 128, True),
    ("models.resnet:resnet18_cifar", 128, False),
    ("models.vgg:vgg16_bn", 128, True),
    ("models.mobilenet:mobilenet_v2", 64, True),
    ("models.densenet:densenet121", 64, True),
    ("models.preact_resnet:preact_resnet164", 64, True),
    ("models.unet:unet_small", 16, True),
    ("models.convnext:convnext_tiny", 32, True),
    ("models.vit:vit_small", 64, False),
)
RESULTS = Path("tools") / "results" / "gpu-code.json"
app = typer.Typer(add_completion=False, help=__doc__)


def count(target: str, batch: int, channels_last: bool, bits: int | None) -> dict[str, int]:
    """Bytes that kernels move in 'forward' and 'backward', and 'peak' bytes alive. bits: None for torch.compile."""
    loaded = load(target, batch)
    model: Any = loaded.model
    inputs: Any = loaded.inputs
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        inputs = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
    wrappers = [half.wrapper for half in triton_code(model, inputs, torch.bfloat16, bits=bits)]
    moved: Counter[str] = Counter()
    for phase, access in accesses(wrappers):
        moved[phase] += (access.read + access.written) * (access.kind == "kernel")
    return {"forward": moved["forward"], "backward": moved["backward"], "peak": predict(wrappers).peak.live}


def table(data: dict[str, Any]) -> str:
    """The table of docs/benchmarks.md: GiB of approx_fx, torch.compile's in brackets, and ratios."""
    lines = [
        "| network, batch | kernels move, forward | backward | both, of torch.compile's | predicted peak |",
        "|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        compiled, coded = row["compile"], row["approx_fx"]
        moved = [f"{coded[phase] / 2**30:.2f} GiB ({compiled[phase] / 2**30:.2f})" for phase in ("forward", "backward")]
        ratio = (coded["forward"] + coded["backward"]) / (compiled["forward"] + compiled["backward"])
        peak = (
            f"{coded['peak'] / 2**30:.2f} GiB ({compiled['peak'] / 2**30:.2f}), {compiled['peak'] / coded['peak']:.1f}x"
        )
        order = ", channels-last" if row["channels_last"] else ""
        cells = [f"{row['target'].split(':')[1]}, {row['batch']}{order}", *moved, f"{ratio:.2f}x", peak]
        lines.append(f"| {' | '.join(cells)} |")
    where = f"for an H100, torch {data['torch']}, {data['date'][:10]}{revision_note(data)}"
    return "\n".join([*lines, "", f"In brackets torch.compile's; {where}; `python tools/gpu_code.py`"])


@app.command()
def main() -> None:
    """Count for each network, print its row and write gpu-code.json."""
    data: dict[str, Any] = {**environment(), "bits": BITS, "dtype": "bfloat16", "rows": []}
    for target, batch, channels_last in NETWORKS:
        row: dict[str, Any] = {"target": target, "batch": batch, "channels_last": channels_last}
        row |= {
            "compile": count(target, batch, channels_last, None),
            "approx_fx": count(target, batch, channels_last, BITS),
        }
        data["rows"].append(row)
        typer.echo(table({**data, "rows": [row]}).splitlines()[2])
        write_text(ROOT / RESULTS, json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    app()
