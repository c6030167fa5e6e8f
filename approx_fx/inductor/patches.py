"""The table of torch functions that are replaced while a half with our ops is compiled, and restored afterwards.

A patch saves memory or time; results are the same without it. It acts only in the thread that compiles such a half: a
concurrent compile in another thread runs torch's own code. A patch is off if the source of a function it replaces is
none of those it was written for (a newer torch), if APPROX_FX_DISABLE names it, or if `Config.patches` omits it.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pkgutil import resolve_name
from typing import Any

import torch

from .code_conversion import converts_codes, loads_codes
from .peak_estimate import begins_in_place, counts_saved_inputs_once
from .switches import is_on

log = logging.getLogger(__name__)
NEWEST = (2, 15)
VERSIONS = ("2.11.0", "2.13.0", "2.14.1", "2.15.0")


@dataclass(frozen=True)
class Patch:
    """One row: functions of torch that are replaced together.

    targets: pairs of 'module:qualified.name' and a function from torch's function to its replacement. why: one line.
    measured: what it saves, and the command that measures it. torch: the versions it is written for. sources: tuples of
    `source_hash` of all targets, one for each set of sources that these versions have.
    """

    name: str
    targets: tuple[tuple[str, Callable[[Any], Any]], ...]
    why: str
    measured: str
    torch: tuple[str, ...]
    sources: tuple[tuple[str, ...], ...]


PATCHES: tuple[Patch, ...] = (
    Patch(
        "peak_estimate",
        (
            ("torch._inductor.memory:get_freeable_input_buf", counts_saved_inputs_once),
            ("torch._inductor.codegen.wrapper:EfficientPeakEstimate.__init__", begins_in_place),
        ),
        why="a freed buffer is kept for a later one up to an estimate of the peak that counts codes and buffers twice",
        measured="peak: vit_small -19 %, gpt_tiny -19 %, preact_resnet20 the same (`python tools/bench.py patches`)",
        torch=VERSIONS,
        sources=(("a13adaca7757", "0578763f6023"), ("8ee4dff69f2d", "0578763f6023")),
    ),
    Patch(
        "code_conversion",
        (
            ("torch._inductor.codegen.cpp:CppVecKernel.get_to_dtype_expr", converts_codes),
            ("torch._inductor.codegen.cpp:CppVecKernel._get_vec_load_line", loads_codes),
        ),
        why="on AVX2 codes become floats one by one, through memory; in bfloat16 on AVX-512, too",
        measured="preact_resnet20, AVX2's vectors: step -27 % (`python tools/bench.py patches --simdlen 256`)",
        torch=VERSIONS,
        sources=(("40ec5386ad58", "53b8e82e5142"), ("429b11fdf202", "874c8487f4c1"), ("56bca375f388", "874c8487f4c1")),
    ),
)


def source_hash(target: str) -> str:
    """The first 12 digits of the SHA-256 of a target's source; '' where torch has no such function."""
    try:
        return hashlib.sha256(inspect.getsource(resolve_name(target)).encode()).hexdigest()[:12]
    except (ImportError, AttributeError, OSError, TypeError):
        return ""


@lru_cache
def fits(patch: Patch) -> bool:
    """Whether the installed torch's functions are among those that a patch was written for."""
    hashes = tuple(source_hash(target) for target, _ in patch.targets)
    is_known = "" not in hashes and hashes in patch.sources
    if not is_known:
        log.debug("the patch %s is off: it does not know this torch's %s", patch.name, patch.targets[0][0])
    return is_known


def names_in_use(names: Sequence[str] | None) -> list[str]:
    """The names of the patches that a compile applies. names: `Config.patches`, None for all."""
    return [row.name for row in PATCHES if (names is None or row.name in names) and is_on(row.name) and fits(row)]


@lru_cache(1)
def warn_of_newer_torch() -> None:
    """Log a warning, once per process, if torch is newer than all versions that this package was tested with."""
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2] if part.isdigit())
    if release > NEWEST:
        log.warning(
            "approx_fx was tested with torch up to %d.%d; this is %s. What it replaces in Inductor to save memory and "
            "time is off where torch has changed it; results are the same.", *NEWEST, torch.__version__
        )  # fmt: skip


# Names of the patches that this thread applies now. A replaced function looks itself up here at each call.
_IN_USE: ContextVar[tuple[str, ...]] = ContextVar("approx_fx_patches", default=())
_LOCK = threading.Lock()
_compiles = 0
_replaced: list[tuple[Any, str, Any]] = []


@contextmanager
def applied(names: Sequence[str] | None) -> Iterator[None]:
    """Context in which patches act in this thread. The last concurrent context to exit restores torch's functions."""
    token = _IN_USE.set(tuple(names_in_use(names)))
    _enter()
    try:
        yield
    finally:
        _leave()
        _IN_USE.reset(token)


def _enter() -> None:
    global _compiles
    with _LOCK:
        _compiles += 1
        if _compiles == 1:
            for patch in PATCHES:
                for target, wrap in patch.targets if fits(patch) else ():
                    owner, name = _owner(target)
                    _replaced.append((owner, name, owner.__dict__[name]))
                    setattr(owner, name, _dispatching(patch.name, getattr(owner, name), wrap))


def _leave() -> None:
    global _compiles
    with _LOCK:
        _compiles -= 1
        if _compiles == 0:
            while _replaced:
                owner, name, original = _replaced.pop()
                setattr(owner, name, original)


def _dispatching(name: str, original: Any, wrap: Callable[[Any], Any]) -> Callable[..., Any]:
    replacement = wrap(original)

    def dispatch(*args: Any, **options: Any) -> Any:
        return (replacement if name in _IN_USE.get() else original)(*args, **options)

    return dispatch


def _owner(target: str) -> tuple[Any, str]:
    """The module or class that holds a target, and the target's name there."""
    split = max(target.rfind("."), target.rfind(":"))
    return resolve_name(target[:split]), target[split + 1 :]
