"""DistributedDataParallel and FSDP2 in two gloo processes on the CPU: every rank decides alike, and gradients agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run(worker: str, kind: str, folder: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*command, f"tests/support/{worker}.py", kind, str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.cpp
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks(kind: str, tmp_path: Path) -> None:
    first, second = run("distributed_worker", kind, tmp_path)
    assert first["failed"] == second["failed"] == []
    assert first["decisions"] == second["decisions"] and first["decisions"]
    assert first["gradients"] == second["gradients"], "the ranks' averaged gradients differ"
    assert first["parameters"][0] == first["parameters"][1] > 10
    assert first["cosine"] > 0.99
    assert first["ratio"] > 6
    assert first["weights_saved"] == second["weights_saved"] == []
    for rank in (first, second):
        exact, ours = rank["losses"]
        assert abs(ours - exact) < 0.02 * exact


@pytest.mark.cpp
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_rank_decides_for_itself_when_its_data_are_hard(kind: str, tmp_path: Path) -> None:
    first, second = run("hard_data_worker", kind, tmp_path)
    assert first["cosines"] == second["cosines"] and first["sum"] == second["sum"], "the averaged gradients differ"
    assert min(first["cosines"].values()) > 0.95
    assert not first["texts"] and any("code of addmm in" in text for text in second["texts"])
    assert not any("code of  in" in text for text in second["texts"])
