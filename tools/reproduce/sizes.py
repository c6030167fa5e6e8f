"""The sizes of the experiments: quick for CI, default for an hour or two on two cores, full for a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tools.lib.repo_path import ROOT
from tools.lib.user_errors import UserError


@dataclass(frozen=True)
class Size:
    """One size of every experiment.

    Attributes:
        name: quick, default or full.
        data, shrink: the data set of the main comparison, each image averaged over shrink x shrink pixels.
        model, epochs, batch, augment: its net and its training.
        small_epochs: of the digits, on which architectures are compared.
        seeds, more_seeds: one run each; more_seeds only for methods whose results lie within each other's noise.
        compiler: "inductor" or "eager", for the methods that compile.
        text_steps: training steps of the text models.
        depths, trained_depths: depths in the memory table, and in the measurement of the gradient's error.
        draws: the batches over which bias and variance are averaged.
        out: folder of the results.
    """

    name: str
    data: str
    shrink: int
    model: str
    epochs: int
    batch: int
    augment: bool
    small_epochs: int
    seeds: tuple[int, ...]
    more_seeds: tuple[int, ...]
    compiler: str
    text_steps: int
    depths: tuple[int, ...]
    trained_depths: tuple[int, ...]
    draws: int
    out: Path


RESULTS = ROOT / "docs" / "results" / "reproduce"
QUICK = Size(
    name="quick", data="digits", shrink=1, model="preact_basic8", epochs=1, batch=128, augment=False, small_epochs=1,
    seeds=(0,), more_seeds=(), compiler="eager", text_steps=4, depths=(20,), trained_depths=(8,), draws=4,
    out=ROOT / "out" / "reproduce-quick",
)  # fmt: skip
DEFAULT = Size(
    name="default", data="cifar10", shrink=2, model="preact_basic8", epochs=3, batch=128, augment=False,
    small_epochs=12, seeds=(0, 1, 2), more_seeds=(3, 4), compiler="inductor", text_steps=200,
    depths=(20, 56, 110, 164, 1001), trained_depths=(8, 20, 56), draws=32, out=RESULTS,
)  # fmt: skip
FULL = Size(
    name="full", data="cifar10", shrink=1, model="preact_resnet164", epochs=160, batch=128, augment=True,
    small_epochs=40, seeds=(0, 1, 2), more_seeds=(), compiler="inductor", text_steps=3000,
    depths=(20, 56, 110, 164, 326, 488, 1001), trained_depths=(20, 56, 110), draws=128, out=RESULTS / "full",
)  # fmt: skip


def size_of(quick: bool, full: bool) -> Size:
    """The size that the two flags select. Raises UserError if both are given."""
    if quick and full:
        raise UserError("Give --quick or --full, not both; neither is the default size.")
    return QUICK if quick else FULL if full else DEFAULT
