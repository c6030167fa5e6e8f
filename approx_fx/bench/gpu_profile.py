"""The kernels that a GPU runs in a step; where they take less time than the step, the GPU waits for the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Kernel:
    """All launches of one kernel in one step. seconds: of all launches together; both are means over several steps."""

    name: str
    launches: float
    seconds: float


def kernels(step: Callable[[], object], steps: int = 3) -> list[Kernel]:
    """Profile `steps` steps on a GPU; return the kernels of one step, copies and fills included, the longest first."""
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
