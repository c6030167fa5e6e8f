"""How many slots a program of a kernel takes, and with how many warps: measured once for each kind of launch.

A kind is a kernel, its constants, its tensors' types, its size to a power of two, and a device. Kernels over slots
write each byte of their outputs and read none of them, so that a launch can be repeated: the first one of a kind is.
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
    """block: slots in a program; warps: of 32 threads each."""

    block: int
    warps: int = 4


# Below this many slots a launch takes as long as its start, whatever is chosen.
SMALL = 2**18
ROUNDS = 5

Launch = Callable[[Choice], None]
Clock = Callable[[Callable[[], None]], float]


def choices(per_slot: int) -> tuple[Choice, ...]:
    """What is tried for kernels of this many codes a slot; the first is taken unmeasured: 4096 codes a program."""
    middle = 512 if per_slot == 8 else 1024
    blocks = (middle, middle // 2, middle * 2)
    return tuple(Choice(block, warps) for warps in (4, 8) for block in blocks)


def kind(kernel: Any, slots: int, arguments: dict[str, Any]) -> tuple[Any, ...]:
    """What decides the choice."""
    told: list[Any] = [kernel.fn.__module__, kernel.fn.__name__, slots.bit_length()]
    for name, value in sorted(arguments.items()):
        if isinstance(value, Tensor):
            told.append((name, value.dtype, value.device))
        elif name.isupper():
            told.append((name, value))
    return tuple(told)


def seconds(launch: Callable[[], None]) -> float:
    """The time a launch takes on the current device, in ms: the median of a few, after one that compiles it."""
    launch()
    found = []
    for _ in range(ROUNDS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        launch()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end))
    return median(found)


@dataclass
class Tuner:
    """Remembers the fastest choice of each kind of launch. clock: how long a launch takes."""

    clock: Clock = seconds
    found: dict[tuple[Any, ...], Choice] = field(default_factory=dict)

    def run(self, key: tuple[Any, ...], slots: int, options: tuple[Choice, ...], launch: Launch, still: bool) -> None:
        """Launch with the choice for `key`, found first if need be. still: not now, take the first option."""
        choice = self.found.get(key)
        if choice is None and (still or slots < SMALL):
            choice = options[0]
        elif choice is None:
            choice = self.found[key] = min(options, key=lambda option: self.clock(lambda: launch(option)))
        launch(choice)
