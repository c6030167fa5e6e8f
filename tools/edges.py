"""Measures what a step of several graphs holds for its backward, beside what the report says and what one graph holds.

    python tools/edges.py          a GPT of six blocks of width 512, each way in two processes (gloo, on a CPU)

Ways: one graph; DDP with its usual buckets and with ones of 1 MiB, the latter also without Dynamo's cuts at buckets
(torch._dynamo.config.optimize_ddp); two graph breaks; each block converted; FSDP2 by
block. Results go to docs/results/edges.json and into the table of docs/trainers.md.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

if __name__ == "__main__":
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import torch.distributed as dist
import typer
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.live_bytes import measure
from models.gpt import GPT
from tools.lib.checkpoint import write_text
from tools.lib.markdown_tables import fill
from tools.lib.measuring.environment import environment, footnote
from tools.lib.repo_path import ROOT

RESULTS = ROOT / "docs" / "results" / "edges.json"
PAGE = ROOT / "docs" / "trainers.md"
WAYS = {
    "one graph": "one graph",
    "ddp": "DDP, usual buckets",
    "ddp, 1 MiB": "DDP, buckets of 1 MiB",
    "ddp, 1 MiB, whole": "DDP, buckets of 1 MiB, `optimize_ddp=False`",
    "breaks": "two graph breaks",
    "blocks": "each block converted",
    "fsdp": "FSDP2, each block converted",
}
DEPTH, WIDTH, WORDS, LENGTH, BATCH = 6, 512, 1024, 128, 4


class Trained(nn.Module):
    """A GPT with its loss: tokens (batch, length + 1) -> a scalar. breaks: blocks behind which the graph breaks."""

    def __init__(self, depth: int, width: int, breaks: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.gpt, self.breaks = GPT(depth, width, 4, WORDS, LENGTH), breaks

    def forward(self, tokens: Tensor) -> Tensor:
        """The mean cross entropy of each next token."""
        x = self.gpt.token(tokens[:, :-1]) + self.gpt.position(torch.arange(LENGTH))
        x = self.gpt.blocks[0](x)
        if self.breaks:
            torch._dynamo.graph_break()
        for block in self.gpt.blocks[1:-1]:
            x = block(x)
        if self.breaks:
            torch._dynamo.graph_break()
        logits = self.gpt.head(self.gpt.norm(self.gpt.blocks[-1](x)))
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@dataclass(frozen=True)
class Line:
    """One way, at 4 bits, on one rank. held: bytes alive between forward and backward; saved: those of the report.

    exact: held by torch.compile. graphs: of the step. cosine: of the gradient with the one of torch.compile.
    """

    way: str
    held: int
    saved: int
    exact: int
    graphs: int
    cosine: float


def prepared(way: str, bits: int | None, depth: int, width: int) -> tuple[nn.Module, nn.Module]:
    """(what is called, the model whose parameters are trained)."""
    torch._dynamo.reset()
    torch._dynamo.config.optimize_ddp = not way.endswith("whole")
    torch.manual_seed(0)
    model = Trained(depth, width, (0, 1) if way == "breaks" else ())
    options: dict[str, Any] = {"bits": bits, "compiler": "eager", "check": None, "dynamic": False}
    if way in ("blocks", "fsdp"):
        for block in model.gpt.blocks:
            approx_fx.convert(block, **options)
        if way == "fsdp":
            from torch.distributed.fsdp import fully_shard

            for block in model.gpt.blocks:
                fully_shard(block)
            fully_shard(model)
        return model, model
    if way.startswith("ddp"):
        buckets: dict[str, Any] = {} if way == "ddp" else {"bucket_cap_mb": 1}
        return approx_fx.convert(nn.parallel.DistributedDataParallel(model, **buckets), **options), model
    return approx_fx.convert(model, **options), model


def measured(way: str, depth: int = DEPTH, width: int = WIDTH) -> Line:
    """Train two steps exactly and in 4 bits, and measure the third's forward."""
    tokens = torch.randint(WORDS, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(dist.get_rank()))
    held, gradients, reports = [], [], []
    for bits in (None, 4):
        called, model = prepared(way, bits, depth, width)
        for _ in range(2):
            model.zero_grad(set_to_none=True)
            called(tokens).backward()
        gradients.append(flat_gradients_of(model))
        model.zero_grad(set_to_none=True)
        gc.collect()
        held.append(measure(lambda: called(tokens)).held)  # noqa: B023
        reports.append(approx_fx.report(called))
    cosine = float(gradients[0] @ gradients[1] / (gradients[0].norm() * gradients[1].norm()))
    return Line(way, held[1], reports[1].saved_after, held[0], len(reports[1].graphs), cosine)


def flat_gradients_of(model: nn.Module) -> Tensor:
    """All gradients as one vector, gathered where they are sharded."""
    gradients: list[Any] = [p.grad for p in model.parameters() if p.grad is not None]
    parts = [gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient for gradient in gradients]
    return torch.cat([part.double().flatten() for part in parts])


def run(ways: list[str], depth: int = DEPTH, width: int = WIDTH) -> list[list[Line]]:
    """Measure ways in two processes; for each rank, a line for each way."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment_of_ranks = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        job = ["--folder", folder, "--depth", str(depth), "--width", str(width)]
        job += [argument for way in ways for argument in ("--way", way)]
        done = subprocess.run(
            [*command, str(Path(__file__)), *job], cwd=ROOT, env=environment_of_ranks, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"a rank failed: {done.stderr[-3000:]}")
        texts = [(Path(folder) / f"{rank}.json").read_text() for rank in (0, 1)]
    return [[Line(**line) for line in json.loads(text)] for text in texts]


def table(lines: list[Line], made: dict[str, Any]) -> str:
    """The table of docs/trainers.md."""
    one = next(line.held for line in lines if line.way == "one graph")
    rows = [
        "| the step is | graphs | torch.compile holds | held | by the report | against one graph | gradient cosine |"
    ]
    rows.append("|---|---|---|---|---|---|---|")
    for line in lines:
        sizes = (f"{size / 2**20:.2f} MiB" for size in (line.exact, line.held, line.saved))
        rows.append(
            f"| {WAYS[line.way]} | {line.graphs} | {' | '.join(sizes)} | {line.held / one:.2f}x | {line.cosine:.3f} |"
        )
    return "\n".join([*rows, "", footnote(made)])


def main(
    folder: Annotated[Path | None, typer.Option(help="of a rank's results", hidden=True)] = None,
    way: Annotated[list[str] | None, typer.Option(help="ways to measure; default all")] = None,
    depth: Annotated[int, typer.Option(help="blocks")] = DEPTH,
    width: Annotated[int, typer.Option(help="of a block")] = WIDTH,
) -> None:
    """Measure, write docs/results/edges.json and the table, or do one rank's part of it."""
    ways = way or list(WAYS)
    if folder is not None:
        dist.init_process_group("gloo")
        lines = [asdict(measured(name, depth, width)) for name in ways]
        (folder / f"{dist.get_rank()}.json").write_text(json.dumps(lines))
        dist.destroy_process_group()
        return
    ranks = run(ways, depth, width)
    made = environment()
    for line in ranks[0]:
        print(line)
    if way is None:
        result = {**made, "ranks": [[asdict(line) for line in lines] for lines in ranks]}
        write_text(RESULTS, json.dumps(result, indent=1) + "\n")
        write_text(PAGE, fill(PAGE.read_text(), {"edges": table(ranks[0], made)}, PAGE.name))


if __name__ == "__main__":
    typer.run(main)
