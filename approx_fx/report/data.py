"""The report as data: every saved tensor, why exact ones are exact, totals, and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..encode.exact import REASONS
from ..errors import ApproxFxError
from ..joint.attribution import layer_pattern
from .text import as_html, as_text

SCHEMA = 1
NOTHING_TO_DRAW = (
    "this report holds no graph to draw: one of a training run keeps bytes alone, and a model that is not compiled has "
    "none. Call approx_fx.view(model, *inputs, path=...), or save the report of approx_fx.explain."
)


@dataclass(frozen=True)
class Row:
    """One tensor that is saved as a code.

    bytes_before: of the tensor itself; bytes_after: of its code and scale. used_in: the modules whose backward reads
    it, in the order of their first reads. error: the root mean square error expected for a Gaussian value, relative to
    the value's own. measured: the error on the data of the first step, see `measure.errors`; None where it was not
    measured. early: convolutions and matrix products between its earliest decode op and that op's first reader;
    above 0 the decoded value is alive longer than needed.
    """

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
    used_in: tuple[str, ...] = ()
    error: float = 0.0
    early: int = 0
    measured: float | None = None

    @property
    def layer(self) -> tuple[Any, ...]:
        """A key that is equal for the same tensor of identical layers."""
        return (layer_pattern(self.module), self.op, self.shape, self.dtype, self.quantizer, self.bits)


@dataclass(frozen=True)
class Kept:
    """One tensor that is saved exactly; `reason` is a key of `encode.exact.REASONS`."""

    name: str
    module: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    reason: str
    consumers: tuple[str, ...]
    source: str
    used_in: tuple[str, ...] = ()

    @property
    def layer(self) -> tuple[Any, ...]:
        """A key that is equal for the same tensor of identical layers."""
        return (layer_pattern(self.module), self.op, self.shape, self.dtype, self.reason)


@dataclass(frozen=True)
class MeasuredValue:
    """A value that the backward decodes or recomputes from codes, as it was measured on real data.

    encoding, bits: of its code, or 'recomputed' and those of the codes that it is recomputed from; 'exact' and 0 if it
    is kept. promised: the error expected for a Gaussian value; measured: see `measure.errors`, None for a value that
    depends on another process or on a higher-order op. before: what was measured before `action` was taken, if any.
    """

    name: str
    module: str
    op: str
    encoding: str
    bits: int
    promised: float
    measured: float | None
    before: float | None = None
    action: str = ""


@dataclass(frozen=True)
class GraphReport:
    """One compiled graph. failed: why the pass left the graph exact, or ''.

    before, after: bytes saved under torch's own partition and under this one. peak_before, peak_after: predicted bytes
    alive at the peak, without parameters; peak_before is 0 where it was not predicted. values: what was measured.
    losses: for each large product, such as logits, whether it is computed in chunks, or why not.
    """

    key: str
    before: int
    after: int
    peak_before: int
    peak_after: int
    tensors: tuple[Row, ...] = ()
    kept: tuple[Kept, ...] = ()
    failed: str = ""
    values: tuple[MeasuredValue, ...] = ()
    losses: tuple[str, ...] = ()

    def with_errors(self, errors: Mapping[tuple[str, str], float | None]) -> GraphReport:
        """The report with measured errors. errors: (a tensor's name, its module) -> its error; others stay."""
        rows = (
            dataclasses.replace(row, measured=errors.get((row.name, row.module), row.measured)) for row in self.tensors
        )
        return dataclasses.replace(self, tensors=tuple(rows))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GraphReport:
        """Rebuild a report from what dataclasses.asdict returned."""
        rows = tuple(Row(**_tuples(row)) for row in data["tensors"])
        kept = tuple(Kept(**_tuples(row)) for row in data["kept"])
        values = tuple(MeasuredValue(**row) for row in data["values"])
        return cls(**{**data, "tensors": rows, "kept": kept, "values": values, "losses": tuple(data["losses"])})


@dataclass(frozen=True)
class About:
    """The model that was explained. model: its class, or the TARGET given on the command line.

    parameters: bytes of parameters and buffers; command: the command line that writes this report again, or ''.
    """

    model: str = ""
    batch: int = 0
    dtype: str = ""
    parameters: int = 0
    command: str = ""


@dataclass(frozen=True)
class Report:
    """All graphs of a model. Bytes are of activations, without parameters, inputs and outputs; aliases count once.

    why_empty: a sentence that says why there are no graphs, if that is known.
    """

    graphs: tuple[GraphReport, ...]
    options: dict[str, Any] = field(default_factory=dict)
    about: About = field(default=About(), compare=False)
    why_empty: str = ""

    @property
    def pictures(self) -> tuple[Any, ...]:
        """Empty: only the report of `explain` holds graphs to draw, see `Explained.pictures`."""
        return ()

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
        """saved_before / saved_after, or 1 where nothing is saved."""
        return self.saved_before / self.saved_after if self.saved_after else 1.0

    @property
    def tensors(self) -> list[Row]:
        """The tensors that are saved as codes, of all graphs."""
        return [row for graph in self.graphs for row in graph.tensors]

    @property
    def kept(self) -> list[Kept]:
        """The tensors that are saved exactly, of all graphs."""
        return [row for graph in self.graphs for row in graph.kept]

    @property
    def measured(self) -> list[MeasuredValue]:
        """The values that were measured on real data, of all graphs."""
        return [value for graph in self.graphs for value in graph.values]

    @property
    def predicted_peak(self) -> dict[str, int]:
        """Predicted peak of live activation and gradient bytes of a step: {'before', 'after'}.

        The tensors saved by earlier graphs are alive while a graph runs. 'before' is 0 where it was not predicted.
        """
        highest = {"before": 0, "after": 0}
        saved_earlier = {"before": 0, "after": 0}
        for graph in self.graphs:
            for side, peak, saved in (
                ("before", graph.peak_before, graph.before),
                ("after", graph.peak_after, graph.after),
            ):
                highest[side] = max(highest[side], peak + saved_earlier[side] if peak else 0)
                saved_earlier[side] += saved
        return highest

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data; the keys are those of the dictionary below, under version `SCHEMA`."""
        return {
            "schema": SCHEMA,
            "saved_bytes": {"before": self.saved_before, "after": self.saved_after},
            "ratio": self.ratio,
            "predicted_peak_bytes": self.predicted_peak,
            "graphs": len(self.graphs),
            "options": self.options,
            "tensors": [dataclasses.asdict(row) for row in self.tensors],
            "kept": [{**dataclasses.asdict(row), "reason_text": REASONS[row.reason]} for row in self.kept],
            "losses": [text for graph in self.graphs for text in graph.losses],
            "exact_graphs": [graph.failed for graph in self.graphs if graph.failed],
        }

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)

    def save_html(self, path: str | Path) -> Path:
        """Raise ApproxFxError: only the report of `explain` holds graphs to draw, see `Explained.save_html`."""
        raise ApproxFxError(NOTHING_TO_DRAW)

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
