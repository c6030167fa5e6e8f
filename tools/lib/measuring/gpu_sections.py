"""The sections of tools/gpu.py: each measures one thing and saves partial results while it runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tools.lib.repo_path import ROOT

Json = dict[str, Any]
Save = Callable[[Json], None]
TESTS = ("tests/ops/test_ops.py", "tests/ops/test_pack.py", "tests/ops/test_launches.py", "tests/ops/test_kernels.py")
PROCESSES = 8
INDEX_LIMIT = 2**31 // (64 * 112 * 112)
"""The largest batch for which a 32-bit index can address all elements of ResNet-50's first activation."""

# name -> target, batch, dtype (bfloat16: autocast). FIRST runs under more systems; `largest` extrapolates its peak.
NETWORKS = {
    "resnet50": ("tools.lib.measuring.nets:resnet50", 128, "bfloat16"),
    "vit_small": ("tools.lib.measuring.nets:vit_small", 128, "bfloat16"),
    "gpt_small": ("models.gpt:gpt_small", 16, "bfloat16"),
    "resnet18_cifar": ("models.resnet:resnet18_cifar", 512, "float32"),
    "preact_resnet164": ("tools.lib.measuring.nets:preact_resnet164", 256, "bfloat16"),
    "densenet121": ("tools.lib.measuring.nets:densenet121", 256, "bfloat16"),
    "resnet152": ("tools.lib.measuring.nets:resnet152", 64, "bfloat16"),
}
DEEP = ("preact_resnet164", "densenet121", "resnet152")
"""Networks that take three minutes to compile; they come last."""
FIRST = "resnet50"
THREADS = "TORCHINDUCTOR_COMPILE_THREADS"
SYSTEMS_OF_FIRST = ["approx_fx@2"]
MEMORY = 24 * 2**30
"""Bytes for the largest batch: two processes fit on a GPU of 80 GB, and the batch stays below INDEX_LIMIT."""
FILLED = 0.8
"""The part of MEMORY to fill. At 0.95, 17 GiB were in use and 3 GiB fragmented when a tensor needed 4 GiB."""
EPOCHS = 3


@dataclass(frozen=True)
class Section:
    """One section. seconds: its time limit; run: (save, seconds, earlier sections' results by name) -> result.

    alone: no other section may run at the same time.
    """

    name: str
    title: str
    seconds: float
    run: Callable[[Save, float, Json], Json]
    alone: bool = True


def ops(save: Save, seconds: float, _: Json) -> Json:
    """Run the tests of kernels and references in several processes; return counts, and the names of failed tests."""
    end = time.monotonic() + seconds - 3
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider"]
    listed = subprocess.run(
        [*command, "--collect-only", "-q", *TESTS], cwd=ROOT, capture_output=True, text=True, timeout=seconds
    )
    names = [line for line in listed.stdout.splitlines() if "::" in line and not line.startswith("ERROR")]
    if not names:
        raise RuntimeError(f"pytest found no tests: {(listed.stdout + listed.stderr).strip()[-300:]}")
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"{index}.log" for index in range(PROCESSES)]
        running = []
        for index, log in enumerate(logs):
            output = log.open("w")
            part = names[index::PROCESSES]
            if part:
                running.append(subprocess.Popen([*command, "-v", *part], cwd=ROOT, stdout=output, stderr=output))
        while any(process.poll() is None for process in running) and time.monotonic() < end:
            time.sleep(1)
            save(count_outcomes("\n".join(log.read_text(errors="replace") for log in logs), len(names)))
        for process in running:
            process.kill()
            process.wait()
        result = count_outcomes("\n".join(log.read_text(errors="replace") for log in logs), len(names))
    save(result)
    return result


def count_outcomes(log: str, total: int) -> Json:
    """Parse the output of `pytest -v`: passed, failed, skipped, unfinished, and the names of failed tests."""
    results = re.findall(r"^(\S+::.*?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL)\b", log, re.MULTILINE)
    outcomes = dict(results)
    count = {word: sum(outcome == word for outcome in outcomes.values()) for word in ("PASSED", "FAILED", "SKIPPED")}
    failures = sorted(name for name, outcome in outcomes.items() if outcome in ("FAILED", "ERROR"))
    return {
        "passed": count["PASSED"],
        "failed_tests": len(failures),
        "skipped": count["SKIPPED"],
        "unfinished": total - len(outcomes),
        "failures": failures[:50],
    }


def bandwidth(save: Save, seconds: float, _: Json) -> Json:
    """Measure the bandwidth of the quantizers' kernels, see tools/lib/measuring/kernels.py."""
    from tools.lib.measuring.kernels import bandwidths

    return bandwidths(save)


def networks(save: Save, seconds: float, _: Json, names: Sequence[str] = tuple(NETWORKS)) -> Json:
    """Measure step and peak under torch.compile, eager and at 4 bits; all compile at once, and are timed one by one.

    The eager run shows how far two exact gradients in 16 bits differ: more than 4-bit codes change them.
    """
    from tools.lib.measuring.benchmark import run_compare
    from tools.lib.measuring.timing_lock import Ticket, side_by_side

    os.environ.setdefault(THREADS, "2")  # of each process that compiles; there are as many processes as processors
    result: Json = {}

    def store(name: str, measured: Json) -> None:
        result[name] = measured
        save(dict(result))

    def job(name: str, target: str, batch: int, dtype: str) -> Callable[[Ticket], None]:
        systems, save_partial = ["eager", *(SYSTEMS_OF_FIRST if name == FIRST else [])], partial(store, name)
        return lambda ticket: save_partial(
            run_compare(target, batch, dtype, systems, 15, False, _say, None, save_partial, ticket)
        )

    side_by_side({name: job(name, *NETWORKS[name]) for name in names}, 0.75 * seconds)
    return result


def largest(save: Save, seconds: float, before: Json) -> Json:
    """Run a step at the batch that should fit MEMORY by FIRST's peak; return whether it fits, and its speed."""
    from tools.lib.measuring.largest import probe
    from tools.lib.measuring.timing_lock import Ticket, side_by_side

    runs = before.get("networks", {}).get(FIRST, {}).get("runs", {})
    target, batch, dtype = NETWORKS[FIRST]
    how = f"{FILLED:.0%} of 24 GiB over the peak of a sample, then real steps with no more than 24 GiB"
    result: Json = {"target": target, "bytes": MEMORY, "how": how}

    def job(system: str) -> Callable[[Ticket], None]:
        def run(ticket: Ticket) -> None:
            if "peak_bytes" not in runs.get(system, {}):
                result[system] = {"failed": f"no peak of {FIRST} was measured before"}
                return
            largest_expected = batch_of(runs[system]["peak_bytes"], batch, MEMORY)
            measured = probe(system, target, largest_expected, dtype, 4, MEMORY, 5, ticket)
            if "step_seconds" in measured:
                measured["samples_per_second"] = measured["samples"] / measured["step_seconds"]
            result[system] = measured
            save(dict(result))

        return run

    side_by_side({system: job(system) for system in ("compile", "approx_fx")}, 0.8 * seconds)
    return result


def batch_of(peak: int, batch: int, memory: int) -> int:
    """The batch, a multiple of 16 up to INDEX_LIMIT, that should fit `memory` bytes if `batch` peaks at `peak`."""
    return max(min(int(FILLED * memory / (peak / batch)), INDEX_LIMIT) // 16 * 16, 16)


def cifar10(save: Save, seconds: float, _: Json) -> Json:
    """Train ResNet-20 on CIFAR-10 (JPEG) for a few epochs, exactly and at 4 bits; return the test accuracies."""
    from tools.lib.datasets import CIFAR10_FILE, folders

    if not any((folder / CIFAR10_FILE).is_file() for folder in folders(None)):
        return {"left_out": f"there is no file {CIFAR10_FILE}; put it in data/ or name its folder in APPROX_FX_DATA"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "tools/train.py", "--data", "cifar10", "--model", "resnet20", "--bits", "exact,4"]
        command += ["--epochs", str(EPOCHS), "--out", folder]
        process = subprocess.Popen(command, cwd=ROOT, stdout=sys.stdout, stderr=sys.stderr)
        end, path = time.monotonic() + seconds - 2, Path(folder) / "results.json"
        result: Json = {"epochs": EPOCHS, "runs": []}
        while process.poll() is None and time.monotonic() < end:
            time.sleep(1)
            result["runs"] = _accuracies(path) or result["runs"]
            save(result)
        process.kill()
        process.wait()
        result["runs"] = _accuracies(path) or result["runs"]
    return result


def _accuracies(path: Path) -> list[Json]:
    try:
        runs = json.loads(path.read_text())["runs"]
    except (OSError, ValueError, KeyError):
        return []
    return [{"bits": run["bits"], "test_accuracy": [epoch["test_accuracy"] for epoch in run["history"]],
             "seconds": run["history"][-1]["total_seconds"] if run["history"] else None} for run in runs]  # fmt: skip


def _say(text: str) -> None:
    print(text, flush=True)


SECTIONS = (
    Section("ops", "Ops against their reference, bit for bit", 150, ops, False),
    Section("cifar10", "CIFAR-10, exactly and at 4 bits", 150, cifar10, False),
    Section("networks", "Training steps", 140, networks),
    Section("largest", "ResNet-50, the largest batch", 110, largest),
    Section("bandwidth", "Bandwidth of the kernels", 40, bandwidth),
    Section("deep", "Training steps of deeper networks", 250, partial(networks, names=DEEP)),
)


def child(section: Section, part: Path, seconds: float, before: Path) -> None:
    """Run one section in this process; write its result, and each partial result, to the JSON file `part`."""

    lock = threading.Lock()

    def save(result: Json) -> None:
        with lock:
            temporary = part.with_suffix(".tmp")
            temporary.write_text(json.dumps(result))
            os.replace(temporary, part)

    save(section.run(save, seconds, json.loads(before.read_text())))
