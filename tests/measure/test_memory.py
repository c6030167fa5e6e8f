"""The measurement of the first step needs no more memory than a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import approx_fx
from approx_fx.bench.live_bytes import measure
from approx_fx.measure import first_step
from models.gpt import gpt_tiny
from models.preact_resnet import preact_resnet20
from models.resnet import resnet20
from models.unet import unet_small

Build = Callable[[int], tuple[Any, ...]]


@pytest.mark.parametrize(("build", "batch"), [(resnet20, 64), (preact_resnet20, 64), (gpt_tiny, 8), (unet_small, 8)])
def test_the_walk_holds_no_more_than_a_step(build: Build, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Op by op, so that the later step is the usual one; the comparison of small graphs' gradients is left out."""
    monkeypatch.setattr(first_step, "MOST_BYTES", 0)
    torch._dynamo.reset()
    model, inputs, *_ = build(batch)
    approx_fx.convert(model, bits=4, compiler="eager")

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        output = model(*inputs)
        output.square().mean().backward()
        return output

    peaks: list[int] = []
    measure_plans = first_step._Checked._measure_plans

    def measured(self: Any, *args: Any) -> Any:
        answers: list[Any] = []
        peaks.append(measure(lambda: answers.append(measure_plans(self, *args))).peak)
        return answers[0]

    monkeypatch.setattr(first_step._Checked, "_measure_plans", measured)
    step()
    assert len(peaks) == 1
    assert peaks[0] < 1.1 * measure(step).peak
