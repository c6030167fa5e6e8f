"""The gradient's error by bits, depth, layer and training time; bias against variance; nearest against stochastic.

The error of one batch is e = g~ - g, its size |e| / |g|. Over many batches b (and roundings) it parts into

    bias       |mean_b e_b|^2, less what N draws leave of the variance
    variance   mean_b |e_b - mean e|^2
    sampling   mean_b |g_b - mean g|^2, what a minibatch's own gradient strays from the mean: SGD's noise

all over |mean g|^2, which too is taken without what N draws leave of the variance. Approximation costs nothing where
bias and variance lie well below sampling.
"""

from __future__ import annotations

import copy
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import approx_fx
from tools.lib.batches import train_batches
from tools.lib.checkpoint import write_text
from tools.lib.datasets import Dataset
from tools.measuring.environment import environment
from tools.reproduce.comparison import main_data
from tools.reproduce.gradient_plots import draw
from tools.reproduce.nets import preact_basic
from tools.reproduce.schemes.approximate_streams import Streams, stream
from tools.reproduce.sizes import Size
from tools.reproduce.table_cells import table

BITS = (1, 2, 3, 4, 6, 8)
NOISE_BITS = (2, 4, 8)
ROUNDINGS = {"nearest": "nearest, channel grid", "stochastic": "stochastic, min-max groups"}
"""What the two settings of `rounding` use for a batch norm's input: stochastic codes need a range that clips none."""
STAGES = (0, 20, 100, 390)
BATCH = 128
MIDDLE = 20  # the depth whose layers, training time and noise are shown
RATE = 0.05
HEADS = ("bits, rounding, quantizer", "bias", "variance", "sampling noise of SGD", "cosine")

Json = dict[str, Any]


def measure(size: Size, out: Path) -> None:
    """Everything that the file lacks, then the picture."""
    path = out / "gradient_error.json"
    data: Json = json.loads(path.read_text()) if path.exists() else {**environment(), "seconds": 0.0}
    data.setdefault("depths", {})
    dataset = main_data(size)
    for depth in size.trained_depths:
        if str(depth) not in data["depths"]:
            start = time.perf_counter()
            stages = STAGES if size.name != "quick" else STAGES[:2]
            noisy = depth == (MIDDLE if MIDDLE in size.trained_depths else size.trained_depths[0])
            data["depths"][str(depth)] = one_depth(depth, dataset, stages, size.draws if noisy else 0)
            data["seconds"] += time.perf_counter() - start
            print(f"depth {depth}: {time.perf_counter() - start:.0f} s", flush=True)
            write_text(path, json.dumps(data, indent=1) + "\n")
    draw(data["depths"], str(MIDDLE), out / "gradient_error.png")


def one_depth(depth: int, dataset: Dataset, stages: tuple[int, ...], draws: int) -> Json:
    """Errors after `stages` steps of exact training: {"errors": {step: {bits: ...}}, "noise": {...} if draws}."""
    torch.manual_seed(0)
    model = preact_basic(depth, len(dataset.classes), dataset.image_shape[0]).to(dataset.train_x.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    endless = itertools.chain.from_iterable(train_batches(dataset, BATCH, 0, epoch) for epoch in itertools.count(1))
    x, y = next(train_batches(dataset, BATCH, 1, 0))
    errors: Json = {}
    torch.compiler.reset()
    trained = {bits: Trained(model, bits) for bits in (None, *BITS)}
    for step in range(stages[-1] + 1):
        if step in stages:
            errors[str(step)] = by_bits(model, trained, x, y)
        if step < stages[-1]:
            images, labels = next(endless)
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
    found: Json = {"errors": errors}
    if draws:
        batches = list(itertools.islice(train_batches(dataset, BATCH, 2, 0), draws))
        found["noise"] = {"batches": len(batches), **noise(model, batches)}
    return found


def by_bits(model: nn.Module, trained: dict[int | None, Trained], x: Tensor, y: Tensor) -> Json:
    """bits -> {"all": the whole gradient's error, "naive": naive training's, "layers": {convolution: its error}}."""
    for each in trained.values():
        each.model.load_state_dict(model.state_dict())
    exact = trained[None].gradients(x, y)
    whole = torch.cat([g.flatten() for g in exact.values()])
    found: Json = {}
    for bits in BITS:
        ours = trained[bits].gradients(x, y)
        layers = {name: size_of(ours[name] - g, g) for name, g in exact.items() if g.ndim == 4}
        error = torch.cat([g.flatten() for g in ours.values()]) - whole
        naive = Trained(stream(copy.deepcopy(model), Streams(bits, forward=True, backward=True)), None)
        theirs = torch.cat([g.flatten() for g in naive.gradients(x, y).values()]) - whole
        found[str(bits)] = {"all": size_of(error, whole), "naive": size_of(theirs, whole), "layers": layers}
    return found


class Trained:
    """A copy of `model`, converted (bits None: as it is), that gives gradients and is never updated."""

    def __init__(self, model: nn.Module, bits: int | None, **options: Any) -> None:
        self.model = copy.deepcopy(model)
        if bits is not None:
            approx_fx.convert(self.model, bits=bits, compiler="eager", strict=True, **options)

    def gradients(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Name -> gradient of the mean cross-entropy, in training mode."""
        self.model.zero_grad()
        cross_entropy(self.model(x), y).backward()
        return {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}

    def flat(self, x: Tensor, y: Tensor) -> Tensor:
        """All of them as one float64 vector."""
        return torch.cat([g.flatten().double() for g in self.gradients(x, y).values()])


def noise(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Json:
    """`bits rounding` -> bias, variance, sampling, all over |mean g|^2, and the cosine of the mean gradients."""
    exact = torch.stack(list(_flat(Trained(model, None), batches)))
    middle = exact.mean(0)
    unit, spread = bias_and_variance(exact)
    found: Json = {}
    for bits in NOISE_BITS:
        for rounding in ROUNDINGS:
            torch.compiler.reset()
            ours = torch.stack(list(_flat(Trained(model, bits, rounding=rounding), batches)))
            bias, variance = bias_and_variance(ours - exact)
            mean = ours.mean(0)
            found[f"{bits} bits, {ROUNDINGS[rounding]}"] = {
                "bias": float(bias / unit), "variance": float(variance / unit), "sampling": float(spread / unit),
                "cosine": float(mean @ middle / (mean.norm() * middle.norm())),
            }  # fmt: skip
    return found


def bias_and_variance(errors: Tensor) -> tuple[Tensor, Tensor]:
    """(squared bias, variance) of `errors` [draws, elements], summed over the elements; both without bias of their own.

    The mean of N draws still holds 1/N of the variance, which is taken off; the squared bias can come out below 0.
    """
    mean = errors.mean(0)
    variance = (errors - mean).square().sum() / (len(errors) - 1)
    return mean.square().sum() - variance / len(errors), variance


def _flat(trained: Trained, batches: list[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
    for x, y in batches:
        yield trained.flat(x, y)


def size_of(error: Tensor, exact: Tensor) -> float:
    """|error| / |exact|."""
    return float(error.norm() / exact.norm())


def page(size: Size, out: Path) -> str:
    """The table of bias and variance."""
    path = out / "gradient_error.json"
    if not path.exists():
        return "Not measured yet: `python -m tools.reproduce gradient-error`"
    data = json.loads(path.read_text())
    noisy = next((found for found in data["depths"].values() if "noise" in found), None)
    rows = []
    for name, row in (noisy["noise"] if noisy else {}).items():
        if name != "batches":
            rows.append(
                (name, *(f"{row[key]:.2g}" for key in ("bias", "variance", "sampling")), f"{row['cosine']:.5f}")
            )
    count = noisy["noise"]["batches"] if noisy else 0
    where = f"{data['device']}, torch {data['torch']}, {data['date'][:10]}"
    return (
        f"{table(HEADS, rows)}\n\nAll over the squared length of the mean gradient; {count} "
        f"batches of {BATCH}; {where}; {data['seconds'] / 60:.0f} minutes; `python -m tools.reproduce gradient-error`"
    )
