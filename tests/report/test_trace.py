"""TORCH_LOGS=+approx_fx says one line per decision; TORCH_TRACE keeps our graphs for tlparse."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import approx_fx
from tests.support.nets import Residual, images


def test_a_line_per_decision(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "approx_fx"):
        report = approx_fx.explain(Residual(), images(), min_bytes=256)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("approx_fx")]
    for row in report.tensors:
        assert any(
            line.startswith(f"{row.name} of {row.module or 'the model'} ({row.op}): {row.bits} bits, ")
            for line in lines
        )
    for kept in report.kept:
        start = f"{kept.name} of {kept.module or 'the model'} ({kept.op}): exact, {kept.bytes} bytes: "
        assert any(line.startswith(start) for line in lines)


CODE = """
from tests.support.nets import Residual, images
import approx_fx
approx_fx.convert(Residual(), min_bytes=256, compiler="eager")(images()).sum().backward()
"""


@pytest.mark.cpp
def test_graphs_in_a_trace(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TORCH_TRACE": str(tmp_path), "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", CODE], cwd=root, env=environment, check=True, capture_output=True)
    found = "".join(path.read_text() for path in tmp_path.iterdir())
    for name in ("approx_fx_joint", "approx_fx_forward", "approx_fx_backward"):
        assert f'"name": "{name}"' in found
    assert "approx_fx.quantize_channel" in found and "approx_fx.dequantize_channel" in found
