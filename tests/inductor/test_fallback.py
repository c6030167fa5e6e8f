"""A half that can't be compiled: it runs op by op, says so, and gives the same gradients."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch._inductor import compile_fx
from torch._inductor.utils import fresh_cache

import approx_fx
from approx_fx.bench.compare import flat_gradients
from tests.support.nets import PATTERNS

WARNING = "approx_fx runs a {} op by op, which is slow: Inductor could not compile it. RuntimeError: no such layout"


@pytest.mark.cpp
@pytest.mark.parametrize("failing", ["forward", "backward"])
def test_what_cannot_be_compiled_runs_op_by_op(
    failing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = compile_fx.compile_fx_inner

    def fails(half: Any, *args: Any, **options: Any) -> Any:
        if ("backward" if options.get("is_backward") else "forward") == failing:
            half.graph.erase_node(next(iter(half.graph.find_nodes(op="output"))))  # a compile leaves what it touched
            raise RuntimeError("no such layout\nand much more")
        return theirs(half, *args, **options)

    def gradients(**options: Any) -> torch.Tensor:
        torch._dynamo.reset()
        ours = copy.deepcopy(model)
        approx_fx.convert(ours, bits=4, min_bytes=0, **options)
        ours(*inputs).square().sum().backward()
        return flat_gradients(ours)

    torch.manual_seed(0)
    model, inputs = PATTERNS["conv_bn_relu"]()
    whole = gradients()
    monkeypatch.setattr(compile_fx, "compile_fx_inner", fails)
    with fresh_cache():
        with caplog.at_level(logging.WARNING, "approx_fx"):
            # Statistics differ in their last digit, and so, seldom, does a code at an edge of its bin.
            assert (gradients() - whole).norm() < 1e-3 * whole.norm()
        said = [record for record in caplog.records if record.name.startswith("approx_fx")]
        assert [record.getMessage() for record in said if record.levelno >= logging.WARNING] == [
            WARNING.format(failing)
        ]
        with pytest.raises(Exception, match="no such layout"):
            gradients(strict=True)


@pytest.mark.cpp
def test_random_numbers_are_not_drawn_again_op_by_op(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled forward's dropout cannot be drawn again op by op: the failure is raised, gradients are never wrong."""
    compile_inner = compile_fx.compile_fx_inner

    def fails(half: Any, *args: Any, **options: Any) -> Any:
        if options.get("is_backward"):
            raise RuntimeError("no such layout")
        return compile_inner(half, *args, **options)

    torch._dynamo.reset()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Dropout(0.5), torch.nn.Tanh(), torch.nn.Linear(64, 8))
    approx_fx.convert(model, bits=4, min_bytes=0)
    monkeypatch.setattr(compile_fx, "compile_fx_inner", fails)
    with fresh_cache(), pytest.raises(Exception, match="no such layout"):
        model(torch.randn(256, 64)).square().sum().backward()
