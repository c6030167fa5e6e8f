"""Draws networks and data that are hard to code, and compares the gradients of a measured step with the exact ones.

    python tools/fuzz.py                     10,000 drawn networks, half in 8 bits and half in 4; hours
    python tools/fuzz.py --count 2500 --seed 5

A network is wrong if the cosine of a parameter's gradient with the exact one is below 0.99 (8 bits) or 0.95 (4 bits),
or if it is not finite where the exact one is. Parameters whose exact gradient is rounding noise, because it differs in
float32 and float64, do not count. The gradient of a parameter of one number or few, which is close to 0 for one loss by
chance, is that of several losses. Results go to docs/results/fuzz.json, after every hundred, one entry a seed.
"""

from __future__ import annotations

import copy
import json
import logging
import random
from pathlib import Path
from typing import Annotated, Any

if __name__ == "__main__":
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import typer
from torch import Tensor, nn

import approx_fx
from approx_fx.measure.gradients import DRAWS, FEW_NUMBERS
from tools.lib.checkpoint import write_text
from tools.lib.drawn_nets import DATA, IMAGE, ROWS, network
from tools.lib.measuring.environment import environment
from tools.lib.repo_path import ROOT

LEAST = {8: 0.99, 4: 0.95}
# Below this cosine of the gradients in float32 and float64, a gradient is rounding noise.
WELL_CONDITIONED = 0.9999


class _Heard(logging.Handler):
    """Collects the warnings of this package."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The gradient of each parameter, in float64, of one step, or of several where a parameter has few numbers.

    A loss is the inner product of the output with Gaussian noise.
    """
    steps: list[dict[str, Tensor]] = []
    for draw in range(DRAWS if any(p.numel() < FEW_NUMBERS for p in model.parameters()) else 1):
        model.zero_grad()
        output = model(x)
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(draw))
        (output * noise.to(output.dtype)).sum().backward()
        steps.append({name: p.grad.double().flatten() for name, p in model.named_parameters() if p.grad is not None})
    return {name: torch.cat([step[name] for step in steps]) for name in steps[0]}


def cosine(a: Tensor, b: Tensor) -> float:
    """The cosine of two vectors, 1.0 for two zeros."""
    if not bool(a.any()) and not bool(b.any()):
        return 1.0
    return float(a @ b / (a.norm() * b.norm()))


def tried(names: list[str], image: bool, seed: int, data: str, bits: int) -> dict[str, Any]:
    """Train one step of a drawn network; returns its worst parameter, its cosine, and the warnings."""
    model, x = network(names, image, seed, data)
    exact, precise = copy.deepcopy(model), copy.deepcopy(model).double()
    right, reference = gradients(exact, x), gradients(precise, x.double())
    heard = _Heard()
    logger = logging.getLogger("approx_fx")
    logger.addHandler(heard)
    torch._dynamo.reset()
    try:
        approx_fx.convert(model, bits=bits, min_bytes=256, compiler="eager")
        ours = gradients(model, x)
    finally:
        logger.removeHandler(heard)
    sure = [name for name in right if cosine(right[name], reference[name]) > WELL_CONDITIONED]
    worst = min(((cosine(ours[name], right[name]), name) for name in sure), default=(1.0, ""))
    wrong = not worst[0] >= LEAST[bits]
    return {
        "names": names, "image": image, "seed": seed, "data": data, "bits": bits, "cosine": worst[0],
        "parameter": worst[1], "wrong": wrong, "said": heard.texts, "ratio": approx_fx.report(model).ratio,
    }  # fmt: skip


def draw(generator: random.Random) -> tuple[list[str], bool, int, str, int]:
    """A network, data and a width, for `tried`."""
    image = generator.random() < 0.4
    names = generator.choices(sorted(IMAGE if image else ROWS), k=generator.randint(1, 5))
    return names, image, generator.randint(0, 10**6), generator.choice(sorted(DATA)), generator.choice([8, 4])


def main(
    count: Annotated[int, typer.Option(help="networks to draw")] = 10_000,
    seed: Annotated[int, typer.Option(help="of the draws")] = 0,
    out: Annotated[Path, typer.Option(help="file of the results")] = ROOT / "docs" / "results" / "fuzz.json",
) -> None:
    """Try `count` networks; print the wrong ones and add all figures to OUT, in the place of those of the same seed."""
    others = [run for run in json.loads(out.read_text())["runs"] if run["seed"] != seed] if out.exists() else []
    generator = random.Random(seed)
    results: list[dict[str, Any]] = []
    logging.getLogger("approx_fx").propagate = False
    for number in range(1, count + 1):
        result = tried(*draw(generator))
        results.append(result)
        if result["wrong"]:
            print({**result, "said": len(result["said"])}, flush=True)
        if number % 100 == 0 or number == count:
            runs = sorted([*others, summary(results, seed)], key=lambda run: run["seed"])
            totals = {key: sum(run[key] for run in runs) for key in ("drawn", "with_a_sentence", "silently_wrong")}
            write_text(out, json.dumps({**totals, "runs": runs}, indent=1) + "\n")
            print(f"{number} drawn, {sum(r['wrong'] for r in results)} wrong", flush=True)


def summary(results: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The counts, and every wrong network with all that makes it again."""
    wrong = [result for result in results if result["wrong"]]
    return {
        **environment(),
        "seed": seed,
        "drawn": len(results),
        "with_a_sentence": sum(bool(result["said"]) for result in results),
        "wrong": len(wrong),
        "silently_wrong": sum(not result["said"] for result in wrong),
        "mean_ratio": sum(result["ratio"] for result in results) / len(results),
        "networks": wrong,
    }


if __name__ == "__main__":
    typer.run(main)
