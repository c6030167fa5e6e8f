"""Runs the examples in tools/examples, one for each trainer, and writes what each of them saves.

    python tools/trainers.py               all of them, one after another, minutes: results and table
    python tools/trainers.py ddp fsdp2     these, printed only

Results go to docs/results/trainers.json and into the table of docs/trainers.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Annotated, Any

if __name__ == "__main__":
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import typer

from tools.lib.checkpoint import write_text
from tools.lib.markdown_tables import fill
from tools.lib.measuring.environment import environment, footnote
from tools.lib.repo_path import ROOT

FOLDER = ROOT / "tools" / "examples"
RESULTS = ROOT / "docs" / "results" / "trainers.json"
PAGE = ROOT / "docs" / "trainers.md"


@dataclass(frozen=True)
class Example:
    """One script. trainer: as the table names it; packages: needed beside torch; torchrun: in two processes."""

    trainer: str
    packages: tuple[str, ...] = ()
    torchrun: bool = False


EXAMPLES = {
    "hf_trainer": Example("HF Trainer, gradient checkpointing", ("transformers", "accelerate")),
    "trl_lora": Example("TRL's SFTTrainer, LoRA", ("transformers", "accelerate", "datasets", "peft", "trl")),
    "accelerate_loop": Example("Accelerate", ("accelerate",)),
    "lightning_ddp": Example("Lightning, DDP", ("lightning",)),
    "ddp": Example("DDP", torchrun=True),
    "fsdp2": Example("FSDP2", torchrun=True),
    "torchtitan_style": Example("torchtitan's way, bfloat16", torchrun=True),
    "timm_loop": Example("timm's loop", ("timm",)),
    "diffusers_lora": Example('diffusers UNet, LoRA, `compiler="eager"`', ("diffusers", "peft")),
}


@dataclass(frozen=True)
class Measured:
    """What an example printed; see tools/examples/result.py. Of two processes it is the first that prints.

    saved_exact, saved: bytes that torch.compile and approx_fx save in the last step; cosine: of a batch's gradient with
    the exact one; only_trained_changed: the parameters that need a gradient changed in training, and no others.
    """

    saved_exact: int
    saved: int
    ratio: float
    graphs: int
    failed: list[str]
    loss_first: float
    loss_last: float
    cosine: float
    parameters_trained: int
    parameters_in_all: int
    only_trained_changed: bool
    frozen_without_gradient: bool


def run(name: str) -> Measured:
    """Run one example and read the line of JSON that it prints last.

    Raises:
        RuntimeError: the example failed, or printed no such line.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *(torchrun if EXAMPLES[name].torchrun else []), str(FOLDER / f"{name}.py")]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"saved_exact"')]
    if done.returncode or len(lines) != 1:
        raise RuntimeError(f"{name}.py ended with {done.returncode}: {done.stderr[-3000:]}")
    return Measured(**json.loads(lines[0]))


def table(measured: dict[str, Measured], made: dict[str, Any]) -> str:
    """The table of docs/trainers.md."""
    rows = [
        "| trainer | script | graphs | torch.compile saves | approx_fx saves | ratio | loss | gradient cosine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, line in measured.items():
        script = f"[{name}.py](../tools/examples/{name}.py)"
        sizes = " | ".join(f"{size / 2**20:.2f} MiB" for size in (line.saved_exact, line.saved))
        loss = f"{line.loss_first:.2f} to {line.loss_last:.2f}"
        rows.append(
            f"| {EXAMPLES[name].trainer} | {script} | {line.graphs} | {sizes} | {line.ratio:.1f}x | {loss} "
            f"| {line.cosine:.3f} |"
        )
    return "\n".join([*rows, "", footnote(made)])


def main(
    names: Annotated[list[str] | None, typer.Argument(help="examples to run and print; default all")] = None,
) -> None:
    """Run the examples; where all are run, write docs/results/trainers.json and the table of docs/trainers.md."""
    unknown = set(names or ()) - set(EXAMPLES)
    if unknown:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: the examples are {', '.join(EXAMPLES)}.")
    made = environment()
    measured = {}
    for name in names or EXAMPLES:
        measured[name] = run(name)
        print(name, measured[name], flush=True)
    if not names:
        result = {**made, "examples": {name: asdict(line) for name, line in measured.items()}}
        write_text(RESULTS, json.dumps(result, indent=1) + "\n")
        write_text(PAGE, fill(PAGE.read_text(), {"trainers": table(measured, made)}, PAGE.name))


if __name__ == "__main__":
    typer.run(main)
