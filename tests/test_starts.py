"""What a start costs: what is imported when, and code that is written only if somebody reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import capture as capturing
import pytest
import torch
from capture import capture
from nets import PATTERNS
from torch import fx, nn

from approx_fx.config import Config
from approx_fx.partitioner import Partition, lower
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


@pytest.mark.parametrize(("options", "loaded"), [({}, True), ({"compiler": "eager"}, False)])
def test_inductor_is_imported_when_a_model_is_converted(options: dict[str, Any], loaded: bool) -> None:
    """As torch.compile does it, so that the first step does not pay for it; not by importing approx_fx."""
    program = PROGRAM.format(options=options)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.split() == ["False", str(loaded)]


def test_the_pass_writes_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor reads graphs alone; writing a deep network's backward as Python takes a third of torch's partition."""
    sizes: list[int] = []
    own, through = fx.Graph.python_code, capturing.partition

    def count(self: fx.Graph, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(self.nodes))
        return own(self, *args, **kwargs)

    def counted(module: fx.GraphModule, outputs: int, config: Config) -> Partition:
        with monkeypatch.context() as patched:
            patched.setattr(fx.Graph, "python_code", count)
            done = through(copy_graph_module(module), outputs, config)
            lower(done)
            assert sizes == []
            assert "def forward" in done.backward.code
            assert sizes == [len(done.backward.graph.nodes)]
        return done

    monkeypatch.setattr(capturing, "partition", counted)
    model, inputs = PATTERNS["residual"]()
    capture(model, *inputs, run=False, min_bytes=1024)


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
