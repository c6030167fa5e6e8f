"""Find the reports of a model: in this process by its parameters, across processes by the traced code.

Inductor's cache returns a compiled graph without running the pass; the report of the process that did run it is then
read from the same cache folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.utils.weak import WeakIdKeyDictionary

from ..config import Config
from ..inductor import compile as inductor
from .data import GraphReport, MeasuredValue, Report

# parameter or converted module -> reports of the graphs that use it, in the order of compilation
_compiled: WeakIdKeyDictionary = WeakIdKeyDictionary()


def register(inputs: Iterable[Any], graph: GraphReport, options: dict[str, Any]) -> None:
    """Remember a compiled graph's report under its parameters and under the converted module.

    Both are needed: parameters are replaced when they are sharded or swapped, and a model that is compiled as a
    function has no converted module.
    """
    for owner in inputs:
        if isinstance(owner, (nn.Parameter, nn.Module)):
            reports = _compiled.setdefault(owner, {})
            reports.pop(graph.key, None)
            reports[graph.key] = (graph, options)


def report(model: nn.Module) -> Report:
    """The report of what was compiled for `model` so far, from a warm cache too; a recompiled graph counts once."""
    graphs: dict[str, tuple[GraphReport, dict[str, Any]]] = {}
    for owner in (*model.parameters(), *model.modules()):
        graphs.update(_compiled.get(owner, {}))
    options = next((options for _, options in graphs.values()), {})
    return Report(tuple(graph for graph, _ in graphs.values()), options)


def graph_key(module: fx.GraphModule, inputs: Sequence[Any], config: Config) -> str:
    """A key for the report of a traced module, which does not depend on whether the compiled graph is cached."""
    digest = hashlib.sha256(f"{torch.__version__}|{config.key()}|{module.code}".encode())
    for node in module.graph.nodes:
        digest.update((node.meta.get("stack_trace") or "").encode())
    for value in inputs:
        if isinstance(value, torch.Tensor):
            shape, strides = tuple(map(str, value.shape)), tuple(map(str, value.stride()))
            digest.update(f"{shape}{strides}{value.dtype}{value.device}{value.requires_grad}".encode())
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


def set_measured(key: str, values: Sequence[MeasuredValue]) -> None:
    """Write what was measured into the report of a graph, in this process and on disk."""
    errors = {value.name: value.measured for value in values}

    def with_values(graph: GraphReport) -> GraphReport:
        rows = (dataclasses.replace(row, measured=errors.get(row.name, row.measured)) for row in graph.tensors)
        return dataclasses.replace(graph, tensors=tuple(rows), values=tuple(values))

    for graphs in _compiled.values():
        if key in graphs:
            graphs[key] = (with_values(graphs[key][0]), graphs[key][1])
    stored = load(key)
    if stored:
        save(key, [with_values(graph) for graph in stored])


def save_decisions(key: str, decisions: dict[str, Any]) -> None:
    """Store what was measured of a traced module, and decided, for later processes."""
    _write(key, "decisions.json", decisions)


def load_decisions(key: str) -> dict[str, Any] | None:
    """What an earlier process stored by `save_decisions` for the same traced module; None if none has measured it."""
    path = _path(key, "decisions.json")
    if path is None or not path.exists():
        return None
    decisions: dict[str, Any] = json.loads(path.read_text())
    return decisions


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
