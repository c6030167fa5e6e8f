"""The settings and the results of one training run as plain data, without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

COMPILERS = ("inductor", "eager")
GRIDS = ("gaussian", "blpa")
DEFAULTS_OF_OLD_FILES = {"method": ""}
"""Values of settings that files of older versions lack."""


@dataclass(frozen=True)
class Settings:
    """Everything that determines the results of one run. `bits` None is exact; the seed fixes weights and batch order.

    method: the name of a training method in tools/reproduce/methods.py, '' for approx_fx or exact training.
    """

    data: str
    model: str
    bits: int | None
    seed: int
    epochs: int
    batch: int = 128
    lr: float = 0.1
    optimizer: str = "sgd"
    schedule: str = "onecycle"
    weight_decay: float = 5e-4
    augment: bool = False
    compiler: str = "inductor"
    grid: str = "gaussian"
    method: str = ""

    def common(self) -> dict[str, Any]:
        """The settings shared by runs drawn in one plot: all but bits and seed."""
        return {name: value for name, value in asdict(self).items() if name not in ("bits", "seed")}


@dataclass(frozen=True)
class Epoch:
    """The results of one epoch: mean training loss, test accuracy 0..1, seconds of training (not of testing)."""

    epoch: int
    train_loss: float
    test_accuracy: float
    seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Record:
    """The stored results of one run. Saved bytes are None where bits is None (exact)."""

    bits: int | None
    seed: int
    finished: bool
    compile_seconds: float
    saved_before: int | None
    saved_after: int | None
    history: tuple[Epoch, ...]


def label(bits: int | None) -> str:
    """`exact`, or the number of bits."""
    return "exact" if bits is None else str(bits)


def differences(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """`epochs=3 (now 5), ...` for every setting that differs between a stored run and this one; '' if none does."""
    stored, wanted = {**DEFAULTS_OF_OLD_FILES, **stored}, {**DEFAULTS_OF_OLD_FILES, **wanted}
    return ", ".join(
        f"{name}={stored.get(name)!r} (now {wanted.get(name)!r})"
        for name in {**wanted, **stored}
        if stored.get(name) != wanted.get(name)
    )
