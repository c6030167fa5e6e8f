"""Find the reports of a model: in this process by its last runs, across processes by the traced code.

Inductor's cache returns a compiled graph without running the pass; the report of the process that did run it is then
read from the same cache folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from ..config import Config
from ..inductor import compile as inductor
from .data import GraphReport, MeasuredValue, Report
from .runs import last_runs, why_uncompiled, with_measured


def report(model: nn.Module) -> Report:
    """The report of the graphs that the model's last training step ran, each as often as it ran."""
    runs = last_runs(model)
    options = next((run.graph.options for run in runs), {})
    graphs = tuple(report for run in runs for report in run.graph.reports)
    return Report(graphs, options, why_empty="" if graphs else why_uncompiled(model))


def graph_key(module: fx.GraphModule, inputs: Sequence[Any], config: Config) -> str:
    """A key for the report of a traced module, which does not depend on whether the compiled graph is cached.

    Nor on the file and line of the code: torch's cache gives the same compiled graph after either has changed.
    """
    digest = hashlib.sha256(f"{torch.__version__}|{config.key()}|{module.code}".encode())
    for value in inputs:
        if isinstance(value, torch.Tensor):
            shape, strides = tuple(map(str, value.shape)), tuple(map(str, value.stride()))
            digest.update(f"{shape}{strides}{value.dtype}{value.device}{value.requires_grad}{value.is_leaf}".encode())
        else:
            digest.update(str(type(value)).encode())
    digest.update(
        f"{torch.is_grad_enabled()}{torch.is_autocast_enabled('cpu')}{torch.is_autocast_enabled('cuda')}".encode()
    )
    return digest.hexdigest()


def save(key: str, reports: Sequence[GraphReport]) -> None:
    """Store the reports of a traced module for later processes, unless Inductor's caches are off."""
    _write(key, "json", [dataclasses.asdict(report) for report in reports])


def load(key: str) -> list[GraphReport]:
    """Load the reports that an earlier process stored for the same traced module; empty if there are none."""
    path = _path(key)
    if path is None or not path.exists():
        return []
    return [GraphReport.from_json(item) for item in json.loads(path.read_text())]


def save_measured(key: str, values: Sequence[MeasuredValue]) -> None:
    """Write what was measured into the stored reports of a traced module."""
    stored = load(key)
    if stored:
        save(key, [with_measured(graph, values) for graph in stored])


def save_decisions(key: str, decisions: dict[str, Any]) -> None:
    """Store what was measured of a traced module, and decided, for later processes."""
    _write(key, "decisions.json", decisions)


def load_decisions(key: str) -> dict[str, Any] | None:
    """What an earlier process stored by `save_decisions` for the same traced module; None if none has measured it."""
    return _read(key, "decisions.json")


def save_peaks(key: str, changes: dict[str, Any]) -> None:
    """Store how the decisions for a traced module change because of its step's peak, for later processes."""
    _write(key, "peaks.json", changes)


def load_peaks(key: str) -> dict[str, Any] | None:
    """What an earlier process stored by `save_peaks` for the same traced module; None if none has."""
    return _read(key, "peaks.json")


def _read(key: str, ending: str) -> dict[str, Any] | None:
    path = _path(key, ending)
    if path is None or not path.exists():
        return None
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def _write(key: str, ending: str, data: Any) -> None:
    path = _path(key, ending)
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(data))
    temporary.replace(path)


def _path(key: str, ending: str = "json") -> Path | None:
    root = inductor.cache_dir()
    return root / "approx_fx" / f"{key}.{ending}" if root is not None else None
