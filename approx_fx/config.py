"""All options in one frozen, validated dataclass, under the same names in Python, `options=` and the command line."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import ApproxFxError, did_you_mean
from .inductor.patches import PATCHES
from .joint.module_patterns import matches
from .ops.channel import GRIDS
from .torch_compat.inductor_options import mode_names, option_names

PACKAGE = Path(__file__).parent
COMPILERS = ("inductor", "eager")
LOWERINGS = ("auto", "fused", "kernel")
ROWS = ("minmax", "sigma")
ROUNDINGS = ("nearest", "stochastic")
CHECKPOINT_INPUTS = ("exact", "coded")


@dataclass(frozen=True)
class Config:
    """Options of the pass.

    bits: 1 to 8, the width of the saved codes; None is the exact mode, torch.compile's own partition. Or a mapping from
        module patterns to widths, such as {"*": 4, "*.attn*": 8}: a module's tensors get the width of the last pattern
        that matches the module or one that contains it; None keeps them exact; 4 applies where nothing matches.
    exact: module patterns, such as ["head", "*.norm"]: every tensor that the backward of these modules reads is exact.
    grid: the channel quantizer's grid: "gaussian" (Max 1960) or "blpa" (the paper's +-3 sigma).
    rows: how the input of a layer, RMS or instance norm is encoded: by the "minmax" of each group, or in units of the
        row's "sigma", which stores no scale but clips outliers.
    group: the largest number of elements that share one scale in a group quantizer.
    min_bytes: a tensor smaller than this is kept exact.
    stream: how many residual sums in a row may be recomputed, each from the one before; the next is saved (0: all are).
    window: how many convolutions and matrix products a decoded value may stay alive for; later readers decode again.
    rounding: "nearest", or "stochastic", which is unbiased; its random numbers are keyed on (seed, step, tensor).
    seed: the seed of stochastic rounding; the global generators are not used.
    compiler: "inductor", or "eager" to run both halves as they are (no C++ compiler needed).
    lowering: "fused" hands the ops' references to Inductor, which fuses them with their neighbours; "kernel" leaves
        them as separate ops, Triton kernels on a GPU; "auto" is "fused", which was measured to be faster everywhere.
    strict: raise where the pass cannot handle a graph, instead of training that graph exactly, and where Inductor
        cannot compile a half, instead of running that op by op.
    mode: a mode of torch.compile, such as "max-autotune"; given here because torch.compile takes no `mode` beside
        `options`.
    inductor: options of Inductor's own config, by name, such as {"epilogue_fusion": False}.
    patches: names of the Inductor patches to apply (`approx_fx.inductor.patches`), None for all that fit the installed
        torch. They save time and memory; results are the same without. APPROX_FX_DISABLE=name,... in the environment
        switches patches off, too.
    check: when to measure, on real data, how far codes are off, and to store values in a better way where they are too
        far off: "first", in the first step; a number N, in the first and every Nth after it; None, never.
    chunk_loss: compute a loss and its gradient, from the product that makes the logits, for a few rows at a time, so
        that no full copy of the logits exists, where that is possible; the report says where it is not, and why. Logits
        that a model returns beside its loss are then computed when they are read. True: where it lowers the step's
        predicted peak by 5 % or more, and adds at most 3 % to its FLOPs; "always": wherever it is possible.
    checkpoint_inputs: what a region under torch.utils.checkpoint is recomputed from: its "exact" inputs, or "coded"
        ones, which are smaller; the gradient is then that of the region at the decoded inputs.
    keep_freed_memory: on a CPU, make glibc's malloc keep freed memory, for the whole process, which avoids page faults
        in each step.
    """

    bits: int | Mapping[str, int | None] | None = 4
    exact: Sequence[str] = ()
    grid: str = "gaussian"
    rows: str = "minmax"
    group: int = 256
    min_bytes: int = 4096
    stream: int = 8
    window: int = 2
    rounding: str = "nearest"
    seed: int = 0
    compiler: str = "inductor"
    lowering: str = "auto"
    strict: bool = False
    mode: str | None = None
    inductor: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    patches: Sequence[str] | None = None
    keep_freed_memory: bool = False
    check: int | str | None = "first"
    chunk_loss: bool | str = True
    checkpoint_inputs: str = "exact"

    def __post_init__(self) -> None:
        for width in self.bits.values() if isinstance(self.bits, Mapping) else [self.bits]:
            if width is not None and (not _is_int(width) or not 1 <= width <= 8):
                raise ApproxFxError(
                    f"bits={self.bits!r} is not allowed: bits is a whole number from 1 to 8, or None (exact); or a "
                    'mapping from module patterns to these, such as {"*": 4, "*.attn*": 8}.'
                )
        if isinstance(self.exact, str) or not all(isinstance(item, str) for item in (*self.exact, *self.patterns)):
            raise ApproxFxError(
                f"exact={self.exact!r}, bits={self.bits!r}: module patterns are texts, given as a list, such as "
                'exact=["head", "*.norm"].'
            )
        object.__setattr__(self, "exact", tuple(self.exact))
        _one_of("grid", self.grid, GRIDS)
        _one_of("rows", self.rows, ROWS)
        _one_of("compiler", self.compiler, COMPILERS)
        _one_of("lowering", self.lowering, LOWERINGS)
        _one_of("rounding", self.rounding, ROUNDINGS)
        _one_of("checkpoint_inputs", self.checkpoint_inputs, CHECKPOINT_INPUTS)
        if not _is_int(self.seed):
            raise ApproxFxError(f"seed={self.seed!r} is not allowed: seed is a whole number.")
        for name, least in (("group", 8), ("min_bytes", 0), ("stream", 0), ("window", 0)):
            value = getattr(self, name)
            if not _is_int(value) or value < least:
                raise ApproxFxError(f"{name}={value!r} is not allowed: {name} is a whole number, {least} or more.")
        for name in ("strict", "keep_freed_memory"):
            if not isinstance(getattr(self, name), bool):
                raise ApproxFxError(f"{name}={getattr(self, name)!r} is not allowed: {name} is True or False.")
        if not isinstance(self.chunk_loss, bool) and self.chunk_loss != "always":
            raise ApproxFxError(
                f"chunk_loss={self.chunk_loss!r} is not allowed: chunk_loss is True (where it lowers the peak), "
                f"'always' (wherever it is possible) or False.{did_you_mean(str(self.chunk_loss), ['always'])}"
            )
        if self.check not in ("first", None) and not (_is_int(self.check) and int(self.check) > 0):
            raise ApproxFxError(
                f"check={self.check!r} is not allowed: check is 'first' (in the first step), a whole number N (every "
                f"Nth step), or None (never).{did_you_mean(str(self.check), ['first'])}"
            )
        if self.mode is not None:
            _one_of("mode", self.mode, tuple(mode_names()))
        if not isinstance(self.inductor, Mapping):
            raise ApproxFxError(
                f"inductor={self.inductor!r} is not allowed: inductor is a mapping from the names of Inductor's "
                'options to their values, such as {"epilogue_fusion": False}.'
            )
        for name in self.inductor:
            if name not in (inductor_names := option_names()):
                raise ApproxFxError(
                    f"inductor={{{name!r}: ...}} is not allowed: Inductor has no such option."
                    f"{did_you_mean(name, inductor_names)}"
                )
        if self.patches is not None:
            if isinstance(self.patches, str):
                raise ApproxFxError(
                    f"patches={self.patches!r} is not allowed: patches is a list of names, or None (all)."
                )
            for name in self.patches:
                _one_of("patches", name, tuple(patch.name for patch in PATCHES))
            object.__setattr__(self, "patches", tuple(self.patches))

    @property
    def patterns(self) -> tuple[str, ...]:
        """The module patterns in `bits`, if it is a mapping."""
        return tuple(self.bits) if isinstance(self.bits, Mapping) else ()

    def check_names(self, names: Iterable[str]) -> None:
        """Raise ApproxFxError if a module pattern matches none of the module `names` of a model."""
        modules = list(names)
        for pattern in (*self.exact, *self.patterns):
            if not any(matches(pattern, name) for name in modules):
                raise ApproxFxError(f"the pattern {pattern!r} names no module.{did_you_mean(pattern, modules)}")

    @classmethod
    def of(cls, options: Mapping[str, Any] | None = None) -> Config:
        """Build a Config from a mapping. Raises ApproxFxError for an unknown name or a value out of range."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in options or {}:
            if name not in names:
                allowed = ", ".join(names)
                raise ApproxFxError(f"unknown option {name!r}.{did_you_mean(name, names)} Allowed: {allowed}.")
        return cls(**(options or {}))

    def key(self) -> str:
        """A cache key that changes with any option and with any source file that a compile depends on."""
        fields = sorted(dataclasses.asdict(self).items())
        return f"{fields}|{sources_hash()}"


@lru_cache(1)
def sources_hash() -> str:
    """SHA-256 of the Python files that a compile depends on, so that other versions' cached graphs are not reused."""
    digest = hashlib.sha256()
    for path in compiling_sources():
        digest.update(str(path.relative_to(PACKAGE)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def compiling_sources() -> list[Path]:
    """The package's Python files, but for those that only show or measure."""
    showing = [path for folder in ("report/view", "bench") for path in (PACKAGE / folder).rglob("*.py")]
    return sorted(set(PACKAGE.rglob("*.py")) - set(showing) - {PACKAGE / "cli.py"})


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        options = ", ".join(repr(option) for option in allowed)
        raise ApproxFxError(
            f"{name}={value!r} is not allowed: {name} is one of {options}.{did_you_mean(str(value), allowed)}"
        )
