"""What a start costs: what is imported when, and code that is written only if somebody reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import fx, nn

from approx_fx.torch_compat.lazy_graph_module import copy_graph_module

INDUCTOR = "torch._inductor.compile_fx"
PROGRAM = f"""
import sys
import torch
import approx_fx
print({INDUCTOR!r} in sys.modules)
approx_fx.convert(torch.nn.Linear(4, 4), **{{options}})
print({INDUCTOR!r} in sys.modules)
"""


@pytest.mark.cpp
@pytest.mark.parametrize(("options", "loaded"), [({}, True), ({"compiler": "eager"}, False)])
def test_inductor_is_imported_when_a_model_is_converted(options: dict[str, Any], loaded: bool) -> None:
    """As torch.compile does it, so that the first step does not pay for it; not by importing approx_fx."""
    program = PROGRAM.format(options=options)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.split() == ["False", str(loaded)]


def test_a_lazy_module_runs_and_is_written_anew_after_a_change() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(torch.neg, (x,)))
    module = copy_graph_module(fx.GraphModule(nn.Module(), graph))
    output = next(iter(module.graph.find_nodes(op="output")))
    x = next(iter(module.graph.find_nodes(op="placeholder")))
    assert module(torch.ones(1)).item() == -1
    output.args = (x,)
    module.recompile()
    assert module(torch.ones(1)).item() == 1
