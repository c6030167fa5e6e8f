"""Autotuning of the block size and the number of warps of a kernel, once for each kind of launch.

A kind is a kernel, its constants, its tensors' types, its size to a power of two, and a device. Kernels over slots
write each byte of their outputs and read none of them, so the first launch of a kind can be repeated to measure it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """A launch configuration. block: slots per program; warps: groups of 32 threads per program."""

    block: int
    warps: int = 4


# Below this many slots the time of a launch is its overhead, whatever is chosen.
SMALL = 2**18
ROUNDS = 5

Launch = Callable[[Choice], None]
Clock = Callable[[Callable[[], None]], float]


def choices(per_slot: int) -> tuple[Choice, ...]:
    """The candidates for a kernel of `per_slot` codes per slot; the first, the default, is 4096 codes per program."""
    middle = 512 if per_slot == 8 else 1024
    blocks = (middle, middle // 2, middle * 2)
    return tuple(Choice(block, warps) for warps in (4, 8) for block in blocks)


def kind(kernel: Any, slots: int, arguments: dict[str, Any]) -> tuple[Any, ...]:
    """The key under which the choice for a launch is remembered; see the module's docstring."""
    key: list[Any] = [kernel.fn.__module__, kernel.fn.__name__, slots.bit_length()]
    for name, value in sorted(arguments.items()):
        if isinstance(value, Tensor):
            key.append((name, value.dtype, value.device))
        elif name.isupper():
            key.append((name, value))
    return tuple(key)


def milliseconds(launch: Callable[[], None]) -> float:
    """The time of a launch on the current device, in ms: the median of ROUNDS launches, after one that compiles."""
    launch()
    times = []
    for _ in range(ROUNDS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        launch()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return median(times)


@dataclass
class Tuner:
    """Remembers the fastest choice of each kind of launch. clock: measures a launch. fastest: key -> fastest choice."""

    clock: Clock = milliseconds
    fastest: dict[tuple[Any, ...], Choice] = field(default_factory=dict)

    def run(self, key: tuple[Any, ...], slots: int, options: tuple[Choice, ...], launch: Launch, still: bool) -> None:
        """Launch with the fastest of `options`, measured at the first launch of this key.

        still: measuring is not possible now, as during a graph's capture; an unknown key takes the first option.
        """
        choice = self.fastest.get(key)
        if choice is None and (still or slots < SMALL):
            choice = options[0]
        elif choice is None:
            choice = self.fastest[key] = min(options, key=lambda option: self.clock(lambda: launch(option)))
        launch(choice)
