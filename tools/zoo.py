"""Train each model of tools/lib/zoo_models.py under the pass; write one row for each to docs/results/zoo.md.

    python tools/zoo.py [--only gpt2,resnet18] [--bits 4]

A model trains one step exactly (eager PyTorch) and one in few bits. Its row has the number of graphs, of coded and of
exact saved tensors, the ratio of saved bytes in float32 and under bfloat16 autocast, and the cosine of the gradients.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

if not __package__:
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import typer
from torch import nn

from tools.lib.repo_path import ROOT
from tools.lib.torchvision_import import import_torchvision
from tools.lib.user_errors import pick
from tools.lib.zoo_models import ZOO

RESULTS = ROOT / "docs" / "results"
RATIO, COSINE = 6.0, 0.98
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Line:
    """The results of one model. reason: why some graph trains exactly, or why the model did not train."""

    model: str
    graphs: int = 0
    coded: int = 0
    kept: int = 0
    ratio: float = 0.0
    ratio_bfloat16: float = 0.0
    cosine: float = 0.0
    seconds: float = 0.0
    reason: str = ""

    @property
    def good(self) -> bool:
        """Whether the ratio of saved bytes and the cosine of the gradient reach RATIO and COSINE."""
        return self.ratio >= RATIO and self.cosine >= COSINE


@app.command()
def main(
    only: Annotated[str, typer.Option(help="comma-separated parts of names")] = "",
    bits: Annotated[int, typer.Option(min=1, max=8)] = 4,
    out: Annotated[Path, typer.Option(help="folder of zoo.json and zoo.md")] = RESULTS,
) -> None:
    """Measure the models and write the table; rows of models that are not in `only` stay unchanged."""
    import_torchvision()
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    logging.getLogger("approx_fx").setLevel(logging.ERROR)
    path = out / "zoo.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else {}
    name_parts = [part.strip() for part in only.split(",") if part.strip()]
    for name in ZOO:
        if name_parts and not any(part in name for part in name_parts):
            continue
        line = measure(name, bits)
        print(row(line), flush=True)
        rows[name] = asdict(line)
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"date": date.today().isoformat(), "bits": bits, "rows": rows}, indent=1) + "\n")
    (out / "zoo.md").write_text(table([Line(**rows[name]) for name in ZOO if name in rows], bits))


def measure(name: str, bits: int = 4, thorough: bool = True) -> Line:
    """Measure one model; an error becomes its `reason`. thorough: also bfloat16, and one bit more if COSINE fails."""
    import approx_fx
    from approx_fx.bench.compare import flat_gradients
    from approx_fx.bench.target import noise_loss

    pick("model", name, ZOO)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    start = time.perf_counter()
    try:
        torch._dynamo.reset()
        torch.manual_seed(0)
        exact, inputs = ZOO[name]()
        converted = approx_fx.convert(copy.deepcopy(exact), bits=bits, compiler="eager")
        ratio_bfloat16 = approx_fx.explain(exact, *inputs, bits=bits, dtype=torch.bfloat16).ratio if thorough else 0.0
        torch._dynamo.reset()
        for model in (exact, converted):
            torch.manual_seed(1)
            noise_loss(model(*inputs)).backward()
        exact_gradient, gradient = flat_gradients(exact), flat_gradients(converted)
        report = approx_fx.report(converted)
        reason = "; ".join(sorted({graph.failed for graph in report.graphs if graph.failed}))
        cosine = float(exact_gradient @ gradient / (exact_gradient.norm() * gradient.norm()))
        counts = len(report.graphs), len(report.tensors), len(report.kept)
        if thorough and not reason and cosine < COSINE:
            reason = f"a smooth activation's slope is read off {bits} bits, layer after layer; at {bits + 1} bits "
            reason += f"cosine {_cosine(name, exact, inputs, bits + 1):.4f}"
        return Line(name, *counts, report.ratio, ratio_bfloat16, cosine, time.perf_counter() - start, reason)
    except Exception as error:
        text = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {text[0][:160] if text else ''}"
        return Line(name, seconds=time.perf_counter() - start, reason=reason)


def _cosine(name: str, exact: nn.Module, inputs: tuple[Any, ...], bits: int) -> float:
    """The gradient's cosine at another number of bits; the parameters of `exact` hold the exact gradient."""
    import approx_fx
    from approx_fx.bench.compare import flat_gradients
    from approx_fx.bench.target import noise_loss

    torch._dynamo.reset()
    torch.manual_seed(0)
    converted = approx_fx.convert(ZOO[name]()[0], bits=bits, compiler="eager")
    torch.manual_seed(1)
    noise_loss(converted(*inputs)).backward()
    exact_gradient, gradient = flat_gradients(exact), flat_gradients(converted)
    return float(exact_gradient @ gradient / (exact_gradient.norm() * gradient.norm()))


def row(line: Line) -> str:
    """One row of the Markdown table."""
    return (
        f"| {line.model} | {line.graphs} | {line.coded} / {line.kept} | {line.ratio:.1f} | {line.ratio_bfloat16:.1f} "
        f"| {line.cosine:.4f} | {line.reason} |"
    )


def table(lines: list[Line], bits: int) -> str:
    """The whole Markdown page."""
    good = sum(line.good for line in lines)
    return "\n".join(
        [
            f"# The zoo at {bits} bits",
            "",
            f"{good} of {len(lines)} models ({100 * good / max(len(lines), 1):.0f} %) train with a ratio of at least 6 "
            "in float32 and a gradient cosine of at least 0.98. `python tools/zoo.py` makes this table.",
            "Ratio: bytes saved for the backward, torch.compile's own partition / approx_fx.",
            "",
            "| model | graphs | coded / kept | ratio | ratio, bfloat16 | cosine | reason |",
            "|---|---|---|---|---|---|---|",
            *map(row, lines),
            "",
        ]
    )


if __name__ == "__main__":
    app()
