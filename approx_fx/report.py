"""What is saved for the backward, before and after, and why not less: data, totals, JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn
from torch.utils.weak import WeakIdKeyDictionary

from . import render
from .joint.attribution import layer_pattern, module_of, source_of
from .joint.ops import VIEWS, name_of, through
from .joint.values import is_size, nbytes, sizes, tensor
from .partitioner import Partition
from .quantize.exact import REASONS, Exact

SCHEMA = 1
_COPYING = frozenset({"reshape", "_unsafe_view", "unfold"})


@dataclass(frozen=True)
class Row:
    """One saved tensor. before: its own bytes; after: what is stored for it, scales included."""

    name: str
    module: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    quantizer: str
    bits: int
    bytes_before: int
    bytes_after: int
    consumers: tuple[str, ...]
    source: str
    carries_mask: bool = False

    @property
    def layer(self) -> tuple[Any, ...]:
        """What identical layers have in common."""
        return (layer_pattern(self.module), self.op, self.shape, self.dtype, self.quantizer, self.bits)


@dataclass(frozen=True)
class Kept:
    """One tensor that is saved exactly, with a reason out of a closed set."""

    name: str
    module: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    reason: str
    consumers: tuple[str, ...]
    source: str

    @property
    def layer(self) -> tuple[Any, ...]:
        """What identical layers have in common."""
        return (layer_pattern(self.module), self.op, self.shape, self.dtype, self.reason)


@dataclass(frozen=True)
class GraphReport:
    """One compiled graph. failed: why the pass left the graph exact, or ''.

    peak_before, peak_after: predicted bytes, parameters excluded; peak_before is 0 where it was not worked out.
    """

    key: str
    before: int
    after: int
    peak_before: int
    peak_after: int
    tensors: tuple[Row, ...] = ()
    kept: tuple[Kept, ...] = ()
    failed: str = ""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GraphReport:
        """The inverse of dataclasses.asdict."""
        rows = tuple(
            Row(**{**row, "shape": tuple(row["shape"]), "consumers": tuple(row["consumers"])})
            for row in data["tensors"]
        )
        kept = tuple(
            Kept(**{**row, "shape": tuple(row["shape"]), "consumers": tuple(row["consumers"])}) for row in data["kept"]
        )
        return cls(**{**data, "tensors": rows, "kept": kept})


@dataclass(frozen=True)
class Report:
    """All graphs of a model. Bytes are activations only: no parameters, no inputs, no outputs; aliases count once."""

    graphs: tuple[GraphReport, ...]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def saved_before(self) -> int:
        """Bytes that torch.compile's own partition saves."""
        return sum(graph.before for graph in self.graphs)

    @property
    def saved_after(self) -> int:
        """Bytes that this pass saves, scales included."""
        return sum(graph.after for graph in self.graphs)

    @property
    def ratio(self) -> float:
        """saved_before / saved_after."""
        return self.saved_before / self.saved_after if self.saved_after else 1.0

    @property
    def tensors(self) -> list[Row]:
        """Every coded tensor."""
        return [row for graph in self.graphs for row in graph.tensors]

    @property
    def kept(self) -> list[Kept]:
        """Every tensor saved exactly."""
        return [row for graph in self.graphs for row in graph.kept]

    @property
    def predicted_peak(self) -> dict[str, int]:
        """Predicted peak of live activation and gradient bytes of a step: {'before', 'after'}."""
        return {
            "before": max((graph.peak_before for graph in self.graphs), default=0),
            "after": max((graph.peak_after for graph in self.graphs), default=0),
        }

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract: schema, saved_bytes, ratio, tensors, kept, and more."""
        return {
            "schema": SCHEMA,
            "saved_bytes": {"before": self.saved_before, "after": self.saved_after},
            "ratio": self.ratio,
            "predicted_peak_bytes": self.predicted_peak,
            "graphs": len(self.graphs),
            "options": self.options,
            "tensors": [dataclasses.asdict(row) for row in self.tensors],
            "kept": [{**dataclasses.asdict(row), "reason_text": REASONS[row.reason]} for row in self.kept],
            "exact_graphs": [graph.failed for graph in self.graphs if graph.failed],
        }

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        return render.text(self)

    def _repr_html_(self) -> str:
        return render.html(self)


def describe(done: Partition, before: int, peaks: tuple[int, int], key: str) -> GraphReport:
    """The report of one partitioned graph. before: bytes that torch's own partition saves; peaks: before, after."""
    readers = _readers(done)
    used = {node.name for node in done.backward.graph.find_nodes(op="placeholder")}
    rows: list[Row] = []
    kept: list[Kept] = []
    for value, nodes in done.stored.items():
        quantizer, own = done.plan.anchors[value], tensor(value)
        if own is None or not any(node.name in used for node in nodes):
            continue
        where = (value.name, module_of(value), name_of(value), sizes(own), str(own.dtype).removeprefix("torch."))
        if isinstance(quantizer, Exact):
            if quantizer.reason != "output":
                kept.append(Kept(*where, nbytes(value), quantizer.reason, readers.get(value, ()), source_of(value)))
            continue
        carries = value in done.plan.carried.values()
        rows.append(
            Row(
                *where,
                quantizer.name,
                quantizer.bits,
                nbytes(value),
                sum(map(nbytes, nodes)),
                readers.get(value, ()),
                source_of(value),
                carries,
            )
        )
    stored = [node for nodes in done.stored.values() for node in nodes if node.name in used]
    after = saved_bytes(stored, done.plan.joint.fwd_outputs)
    return GraphReport(key, before, after, *peaks, tuple(rows), tuple(kept))


def saved_bytes(saved: Iterable[fx.Node], outputs: Iterable[fx.Node]) -> int:
    """Bytes of the saved nodes of a joint graph: no inputs, no outputs, no sizes; aliases count once."""
    alive = {through(node, VIEWS - _COPYING) for node in outputs}
    roots: dict[fx.Node, int] = {}
    for node in saved:
        root = through(node, VIEWS - _COPYING)
        if root.op != "placeholder" and root.op != "get_attr" and root not in alive and not is_size(node):
            roots[root] = max(roots.get(root, 0), nbytes(node))
    return sum(roots.values())


def _readers(done: Partition) -> dict[fx.Node, tuple[str, ...]]:
    """Anchor -> names of the backward ops that read it, directly or through what is recomputed from it."""
    plan = done.plan
    found: dict[fx.Node, set[str]] = {}
    for value, consumers in plan.joint.demands.items():
        names = {name_of(consumer) for consumer in consumers if consumer.op != "output"}
        stack, seen = [value], set()
        while stack:
            current = stack.pop()
            if current in seen:
                continue
            seen.add(current)
            if current in plan.anchors:
                found.setdefault(current, set()).update(names)
            elif current in plan.carried:
                stack.append(plan.carried[current])
            else:
                stack.extend(plan.recompute.get(current, ()))
    return {value: tuple(sorted(names - {""})) for value, names in found.items()}


# parameter or converted module -> reports of the graphs it takes part in, in the order they were compiled
_compiled: WeakIdKeyDictionary = WeakIdKeyDictionary()


def register(inputs: Iterable[Any], graph: GraphReport, options: dict[str, Any]) -> None:
    """Remember a compiled graph's report under the parameters it was compiled for, and the module that was converted.

    Either alone may go: a parameter when it is sharded or swapped, a module when it is compiled as a function.
    """
    for owner in inputs:
        if isinstance(owner, (nn.Parameter, nn.Module)):
            reports = _compiled.setdefault(owner, {})
            reports.pop(graph.key, None)
            reports[graph.key] = (graph, options)


def report(model: nn.Module) -> Report:
    """What was compiled for `model`, after its first step, on a warm cache too; a recompiled graph counts once."""
    graphs: dict[str, tuple[GraphReport, dict[str, Any]]] = {}
    for owner in (*model.parameters(), *model.modules()):
        graphs.update(_compiled.get(owner, {}))
    options = next((options for _, options in graphs.values()), {})
    return Report(tuple(graph for graph, _ in graphs.values()), options)


__all__ = ["GraphReport", "Kept", "Report", "Row", "describe", "register", "report", "saved_bytes"]
