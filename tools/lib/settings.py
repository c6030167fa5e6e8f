"""What a run is told and what is kept of it: plain data, no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

COMPILERS = ("inductor", "eager")
GRIDS = ("gaussian", "blpa")
LATER = {"method": ""}
"""Settings that files of older versions lack."""


@dataclass(frozen=True)
class Settings:
    """All that decides the numbers of one run. `bits` None is exact; the seed fixes weights and batch order.

    method: how the model is trained where that is not approx_fx or exact, see tools/reproduce/methods.py.
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
        """The settings that runs drawn in one plot share: all but bits and seed."""
        return {name: value for name, value in asdict(self).items() if name not in ("bits", "seed")}


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured: mean training loss, test accuracy 0..1, seconds of training (not of testing)."""

    epoch: int
    train_loss: float
    test_accuracy: float
    seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Record:
    """What is kept of one run. Saved bytes are None where bits is None (exact)."""

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


def differences(made_with: dict[str, Any], wanted: dict[str, Any]) -> str:
    """`epochs=3 (now 5), ...` for every setting that differs; empty where none does."""
    made_with, wanted = {**LATER, **made_with}, {**LATER, **wanted}
    return ", ".join(
        f"{name}={made_with.get(name)!r} (now {wanted.get(name)!r})"
        for name in {**wanted, **made_with}
        if made_with.get(name) != wanted.get(name)
    )
