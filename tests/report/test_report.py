"""explain, report, JSON, memory: the numbers are those of the allocator; a warm cache gives the same report."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import approx_fx
from approx_fx.bench.live_bytes import measure
from approx_fx.encode.exact import REASONS
from approx_fx.report.data import GraphReport
from models.densenet import densenet121
from models.preact_resnet import preact_resnet164
from models.resnet import resnet18_cifar, resnet20, resnet50
from models.vgg import vgg16_bn
from tests.support.nets import PATTERNS, Residual, images


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "batch", "bits", "dtype", "least"),
    [
        (resnet18_cifar, 32, 4, None, 13),
        (resnet18_cifar, 32, 2, None, 24),
        (resnet18_cifar, 32, 4, torch.bfloat16, 6.5),
        (resnet50, 8, 4, None, 12),
        (preact_resnet164, 32, 4, None, 15.5),
        (densenet121, 16, 4, None, 22),
        (vgg16_bn, 32, 4, None, 9.5),
    ],
)
def test_ratios_of_the_reference_networks(factory: Any, batch: int, bits: int, dtype: Any, least: float) -> None:
    model, inputs = factory(batch=batch)
    report = approx_fx.explain(model, *inputs, bits=bits, dtype=dtype, strict=True)
    assert report.ratio >= least
    assert not any(graph.failed for graph in report.graphs)


def held(model: Any, inputs: Any) -> int:
    """Bytes alive after the forward, its outputs not counted."""
    out = 0

    def forward() -> Any:
        nonlocal out
        result = model(*inputs)
        out = result.untyped_storage().nbytes()
        return result

    return measure(forward).held - out


@pytest.mark.cpp
@pytest.mark.parametrize(
    ("compiler", "bits"),
    [("eager", 3), ("eager", 4), ("inductor", 4), pytest.param("inductor", 3, marks=pytest.mark.slow)],
)
def test_predicted_saved_bytes_are_the_allocators(compiler: str, bits: int) -> None:
    model, inputs = resnet20(batch=5)
    predicted = approx_fx.explain(model, *inputs, bits=bits).saved_after
    approx_fx.convert(model, bits=bits, compiler=compiler)
    for _ in range(2):
        model(*inputs).sum().backward()
        model.zero_grad(set_to_none=True)
    assert held(model, inputs) == predicted == approx_fx.report(model).saved_after


@pytest.mark.cpp
@pytest.mark.parametrize("name", list(PATTERNS))
def test_predicted_equals_held_on_the_patterns(name: str) -> None:
    model, inputs = PATTERNS[name]()
    approx_fx.convert(model, compiler="eager", min_bytes=256)
    model(*inputs).sum().backward()
    model.zero_grad(set_to_none=True)
    assert held(model, inputs) == approx_fx.report(model).saved_after


def test_explain_runs_nothing_and_changes_nothing() -> None:
    model = Residual()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    live = measure(lambda: approx_fx.explain(model, images(64, 64)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert live.peak < 64 * 16 * 64 * 64 * 4
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_explain_equals_report_after_a_step() -> None:
    model = Residual()
    told = approx_fx.explain(model, images(), min_bytes=256)
    approx_fx.convert(model, compiler="eager", min_bytes=256)
    model(images()).sum().backward()
    found = approx_fx.report(model)
    assert (found.saved_before, found.saved_after) == (told.saved_before, told.saved_after)
    assert [dataclasses.replace(row, name="", measured=None) for row in found.tensors] == [
        dataclasses.replace(row, name="") for row in told.tensors
    ]


def test_json_contract() -> None:
    report = approx_fx.explain(Residual(), images(), min_bytes=256)
    data = json.loads(report.to_json())
    assert data["schema"] == 1
    assert data["saved_bytes"] == {"before": report.saved_before, "after": report.saved_after}
    assert data["ratio"] == report.ratio == report.saved_before / report.saved_after
    after = sum(row["bytes_after"] for row in data["tensors"]) + sum(row["bytes"] for row in data["kept"])
    assert after == report.saved_after
    assert {row["reason"] for row in data["kept"]} <= set(REASONS)
    row = next(row for row in data["tensors"] if row["module"] == "a")
    assert row["op"] == "convolution" and row["quantizer"] == "channel" and row["bits"] == 4 and row["carries_mask"]
    assert "mul" in row["consumers"] and "nets.py" in row["source"]
    assert data["predicted_peak_bytes"]["before"] > data["predicted_peak_bytes"]["after"] > 0


@pytest.mark.cpp
def test_text_and_html() -> None:
    model, inputs = resnet20(batch=4)
    report = approx_fx.explain(model, *inputs)
    text = str(report)
    assert f"{report.ratio:.1f}x smaller" in text and "x3" in text and "channel+mask" in text
    assert "statistic" in text or "small" in text
    assert report._repr_html_().count("<table>") == 2


def test_markup_in_a_module_name_is_escaped() -> None:
    model = torch.nn.Sequential()
    model.add_module("<script>alert(1)</script>", torch.nn.Linear(64, 256))
    model.add_module("relu", torch.nn.ReLU())
    model.add_module("last", torch.nn.Linear(256, 8))
    html = approx_fx.explain(model, torch.randn(64, 64))._repr_html_()
    assert "<script>" not in html


def test_graph_report_survives_json() -> None:
    report = approx_fx.explain(Residual(), images(), min_bytes=256).graphs[0]
    assert GraphReport.from_json(json.loads(json.dumps(dataclasses.asdict(report)))) == report


WARM = """
import json, torch
from tests.support.nets import Residual, images
import approx_fx, approx_fx.backend as backend
runs = []
first = backend.partition
backend.partition = lambda *a: (runs.append(1), first(*a))[1]
torch.manual_seed(0)
model = approx_fx.convert(Residual(), min_bytes=256)
model(images()).sum().backward()
print(json.dumps({"runs": len(runs), "report": approx_fx.report(model).to_dict()}))
"""


@pytest.mark.cpp
def test_a_warm_cache_runs_no_pass_and_gives_the_same_report(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(root)}
    outcomes = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", WARM], cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        outcomes.append(json.loads(done.stdout.strip().splitlines()[-1]))
    assert [outcome["runs"] for outcome in outcomes] == [1, 0]
    assert outcomes[0]["report"] == outcomes[1]["report"]
    assert outcomes[0]["report"]["tensors"]


def test_a_graph_is_known_by_its_code_not_by_its_lines() -> None:
    """Else an edit above a model would lose what was measured of it, while torch's cache still has it compiled."""
    from approx_fx.config import Config
    from approx_fx.report.registry import graph_key

    keys = []
    for start in ("", "\n\n# a comment\n"):
        names: dict[str, Any] = {}
        exec(compile(f"{start}def forward(x, w):\n    return (x @ w).tanh()\n", f"net{len(start)}.py", "exec"), names)

        def backend(module: Any, values: Any) -> Any:
            keys.append(graph_key(module, values, Config()))
            return module.forward

        torch._dynamo.reset()
        torch.compile(names["forward"], backend=backend)(torch.randn(4, 4), torch.randn(4, 4, requires_grad=True))
    assert keys[0] == keys[1]
