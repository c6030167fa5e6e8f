"""What a GPU is busy with during a step: where that is less than the step takes, the GPU waits for the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Kernel:
    """All launches of one name in one step: how many, and their seconds together."""

    name: str
    launches: float
    seconds: float


def kernels(step: Callable[[], object], steps: int = 3) -> list[Kernel]:
    """The kernels of one step on a GPU, copies and fills included, the longest first; means of `steps` steps."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    launches: Counter[str] = Counter()
    microseconds: Counter[str] = Counter()
    for event in profiler.events() or []:
        if event.device_type == torch.autograd.DeviceType.CUDA:
            launches[event.name] += 1
            microseconds[event.name] += event.device_time_total
    return [Kernel(name, launches[name] / steps, total / steps / 1e6) for name, total in microseconds.most_common()]
