"""Measure the gradient's error by bits, depth, layer and training time; its bias and variance; both roundings.

The error of one batch is e = g~ - g, its size |e| / |g|. Over N batches b (and roundings) it consists of

    bias       |mean_b e_b|^2 - variance / N
    variance   mean_b |e_b - mean e|^2
    sampling   mean_b |g_b - mean g|^2, the noise of SGD: how far a minibatch's exact gradient is from the mean

all divided by |mean g|^2 - sampling / N. The error does not slow SGD if bias and variance are well below sampling.
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
from tools.lib.measuring.environment import environment
from tools.reproduce.comparison import main_data
from tools.reproduce.gradient_plots import draw
from tools.reproduce.nets import preact_basic
from tools.reproduce.schemes.approximate_streams import Streams, stream
from tools.reproduce.sizes import Size
from tools.reproduce.table_cells import table

BITS = (1, 2, 3, 4, 6, 8)
NOISE_BITS = (2, 4, 8)
ROUNDINGS = {"nearest": "nearest, channel grid", "stochastic": "stochastic, min-max groups"}
"""How a batch norm's input is coded for each value of `rounding`; stochastic codes need a range that clips nothing."""
STAGES = (0, 20, 100, 390)
BATCH = 128
MIDDLE = 20  # the depth whose layers, training time and noise are shown
RATE = 0.05
HEADS = ("bits, rounding, quantizer", "bias", "variance", "sampling noise of SGD", "cosine")

Json = dict[str, Any]


def measure(size: Size, out: Path) -> None:
    """Measure the depths that the file lacks, then draw the picture."""
    path = out / "gradient_error.json"
    data: Json = json.loads(path.read_text()) if path.exists() else {**environment(), "seconds": 0.0}
    data.setdefault("depths", {})
    dataset = main_data(size)
    for depth in size.trained_depths:
        if str(depth) not in data["depths"]:
            start = time.perf_counter()
            stages = STAGES if size.name != "quick" else STAGES[:2]
            with_noise = depth == (MIDDLE if MIDDLE in size.trained_depths else size.trained_depths[0])
            data["depths"][str(depth)] = one_depth(depth, dataset, stages, size.draws if with_noise else 0)
            data["seconds"] += time.perf_counter() - start
            print(f"depth {depth}: {time.perf_counter() - start:.0f} s", flush=True)
            write_text(path, json.dumps(data, indent=1) + "\n")
    draw(data["depths"], str(MIDDLE), out / "gradient_error.png")


def one_depth(depth: int, dataset: Dataset, stages: tuple[int, ...], draws: int) -> Json:
    """Errors after `stages` steps of exact training: {"errors": {step: {bits: ...}}, "noise": {...} if draws}."""
    torch.manual_seed(0)
    model = preact_basic(depth, len(dataset.classes), dataset.image_shape[0]).to(dataset.train_x.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    training_batches = itertools.chain.from_iterable(
        train_batches(dataset, BATCH, 0, epoch) for epoch in itertools.count(1)
    )
    x, y = next(train_batches(dataset, BATCH, 1, 0))
    errors: Json = {}
    torch.compiler.reset()
    copies = {bits: ConvertedCopy(model, bits) for bits in (None, *BITS)}
    for step in range(stages[-1] + 1):
        if step in stages:
            errors[str(step)] = by_bits(model, copies, x, y)
        if step < stages[-1]:
            images, labels = next(training_batches)
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
    result: Json = {"errors": errors}
    if draws:
        batches = list(itertools.islice(train_batches(dataset, BATCH, 2, 0), draws))
        result["noise"] = {"batches": len(batches), **noise(model, batches)}
    return result


def by_bits(model: nn.Module, copies: dict[int | None, ConvertedCopy], x: Tensor, y: Tensor) -> Json:
    """bits -> {"all": error of the whole gradient, "naive": of naive training's, "layers": {convolution: error}}."""
    for converted in copies.values():
        converted.model.load_state_dict(model.state_dict())
    exact = copies[None].gradients(x, y)
    exact_vector = torch.cat([g.flatten() for g in exact.values()])
    errors: Json = {}
    for bits in BITS:
        coded = copies[bits].gradients(x, y)
        layers = {name: size_of(coded[name] - g, g) for name, g in exact.items() if g.ndim == 4}
        error = torch.cat([g.flatten() for g in coded.values()]) - exact_vector
        naive = ConvertedCopy(stream(copy.deepcopy(model), Streams(bits, forward=True, backward=True)), None)
        naive_error = torch.cat([g.flatten() for g in naive.gradients(x, y).values()]) - exact_vector
        sizes = {"all": size_of(error, exact_vector), "naive": size_of(naive_error, exact_vector)}
        errors[str(bits)] = {**sizes, "layers": layers}
    return errors


class ConvertedCopy:
    """A copy of `model`, converted unless bits is None, that computes gradients and is never updated."""

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
        """All gradients as one float64 vector."""
        return torch.cat([g.flatten().double() for g in self.gradients(x, y).values()])


def noise(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Json:
    """`bits rounding` -> bias, variance, sampling, all over |mean g|^2, and the cosine of the mean gradients."""
    exact = torch.stack(list(_flat(ConvertedCopy(model, None), batches)))
    exact_mean = exact.mean(0)
    squared_length, sampling = bias_and_variance(exact)
    noise_by_setting: Json = {}
    for bits in NOISE_BITS:
        for rounding in ROUNDINGS:
            torch.compiler.reset()
            coded = torch.stack(list(_flat(ConvertedCopy(model, bits, rounding=rounding), batches)))
            bias, variance = bias_and_variance(coded - exact)
            mean = coded.mean(0)
            noise_by_setting[f"{bits} bits, {ROUNDINGS[rounding]}"] = {
                "bias": float(bias / squared_length), "variance": float(variance / squared_length),
                "sampling": float(sampling / squared_length),
                "cosine": float(mean @ exact_mean / (mean.norm() * exact_mean.norm())),
            }  # fmt: skip
    return noise_by_setting


def bias_and_variance(errors: Tensor) -> tuple[Tensor, Tensor]:
    """Unbiased estimates of (squared bias, variance) of `errors` [draws, elements], summed over the elements.

    The squared mean of N draws contains 1/N of the variance, which is subtracted; the result can be below 0.
    """
    mean = errors.mean(0)
    variance = (errors - mean).square().sum() / (len(errors) - 1)
    return mean.square().sum() - variance / len(errors), variance


def _flat(converted: ConvertedCopy, batches: list[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
    for x, y in batches:
        yield converted.flat(x, y)


def size_of(error: Tensor, exact: Tensor) -> float:
    """The relative size |error| / |exact|."""
    return float(error.norm() / exact.norm())


def page(size: Size, out: Path) -> str:
    """The Markdown table of bias and variance, with its footnote."""
    path = out / "gradient_error.json"
    if not path.exists():
        return "Not measured yet: `python -m tools.reproduce gradient-error`"
    data = json.loads(path.read_text())
    measured = next((depth for depth in data["depths"].values() if "noise" in depth), None)
    rows = []
    for name, row in (measured["noise"] if measured else {}).items():
        if name != "batches":
            rows.append(
                (name, *(f"{row[key]:.2g}" for key in ("bias", "variance", "sampling")), f"{row['cosine']:.5f}")
            )
    count = measured["noise"]["batches"] if measured else 0
    where = f"{data['device']}, torch {data['torch']}, {data['date'][:10]}"
    return (
        f"{table(HEADS, rows)}\n\nAll over the squared length of the mean gradient; {count} "
        f"batches of {BATCH}; {where}; {data['seconds'] / 60:.0f} minutes; `python -m tools.reproduce gradient-error`"
    )
