"""The data that the page's scripts draw: the picture as columns of numbers, and a table of the texts they refer to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..text import size
from .colours import of_bits
from .liveness import Moments
from .nodes import Node
from .picture import Picture, Saved
from .ribbon import SIDES, Arc, Ribbon, ribbons

Json = dict[str, Any]
LISTED = 12


@dataclass
class Texts:
    """A table of texts, each stored once and referred to by its number."""

    numbers: dict[str, int] = field(default_factory=dict)

    def __call__(self, text: str) -> int:
        """The text's number; a new text is added."""
        return self.numbers.setdefault(text, len(self.numbers))

    def numbers_of(self, values: Sequence[str]) -> list[int]:
        """The numbers of several texts."""
        return [self(value) for value in values]


def page_data(picture: Picture, parameters: int) -> Json:
    """The page's JSON: ribbon states; moments, nodes and table by side; texts that ribbon and nodes refer to by number.

    parameters: bytes of parameters and buffers.
    """
    texts = Texts()
    sides = {name: getattr(picture, name) for name in SIDES}
    return {
        "ribbon": [_ribbon(state, texts) for state in ribbons(picture)],
        "moments": {name: _moments(side.moments) for name, side in sides.items()},
        "parameters": parameters,
        "nodes": {name: _nodes(side.nodes, texts) for name, side in sides.items()},
        "order": list(picture.order),
        "table": {name: [_row(saved) for saved in side.saved] for name, side in sides.items()},
        "texts": list(texts.numbers),
    }


def _ribbon(state: Ribbon, texts: Texts) -> Json:
    return {
        "state": state.state,
        "height": round(state.height, 3),
        "slots": [[texts(s.module or "(model)"), round(s.top, 3), round(s.height, 3), texts(s.fold)]
                  for s in state.slots],
        "arcs": {side: [_arc(arc, texts) for arc in state.arcs[side]] for side in SIDES},
    }  # fmt: skip


def _arc(arc: Arc, texts: Texts) -> list[Any]:
    return [round(arc.left, 3), round(arc.right, 3), round(arc.thickness, 4),
            of_bits(arc.tensors[0].bits), *texts.numbers_of(_tooltip(arc))]  # fmt: skip


def _tooltip(arc: Arc) -> list[str]:
    """The lines of an arc's tooltip: title, shape, coding, bytes, made, read, source, error."""
    first, count = arc.tensors[0], len(arc.tensors)
    shapes = list(dict.fromkeys("x".join(map(str, tensor.shape)) or "scalar" for tensor in arc.tensors))
    before, after = (sum(getattr(tensor, f"bytes_{side}") for tensor in arc.tensors) for side in SIDES)
    names = first.name if count == 1 else f"{first.name} and {count - 1} more"
    consumers = dict.fromkeys(name for tensor in arc.tensors for name in tensor.consumers)
    early = max(tensor.early for tensor in arc.tensors)
    return [
        f"{names} ({first.op})",
        ", ".join(shapes[:3])
        + (" ..." if len(shapes) > 3 else "")
        + f" {_distinct(tensor.dtype for tensor in arc.tensors)}",
        _distinct(map(coding_text, arc.tensors)),
        f"{size(before)} -> {size(after)}",
        arc.source or "(model)",
        f"{arc.target or '(model)'}: {', '.join(consumers)}",
        first.source,
        error_text(first) + (f"; decoded {early} heavy ops early" if early else ""),
    ]


def _distinct(texts: Iterable[str]) -> str:
    """The distinct texts, joined by commas."""
    return ", ".join(dict.fromkeys(texts))


def coding_text(saved: Saved) -> str:
    """How a tensor is stored, such as 'channel+mask, 4 bits' or 'exact: small'."""
    if saved.bits and saved.coding != "exact":
        return f"{saved.coding}, {saved.bits} bit{'s' if saved.bits > 1 else ''}"
    return f"exact: {saved.reason}" if saved.reason else "exact"


def error_text(saved: Saved) -> str:
    """The root mean square error in percent of the value's own, measured and expected; 'none' if exact."""
    expected = f"{saved.error:.1%} if Gaussian" if saved.error else "none"
    return expected if saved.measured is None else f"{saved.measured:.1%} measured, {expected}"


def _moments(moments: Moments) -> Json:
    steps = moments.moments
    return {
        "phase": [moment.phase for moment in steps],
        "op": [moment.op for moment in steps],
        "module": [moment.module for moment in steps],
        "live": [list(column) for column in zip(*(moment.live for moment in steps), strict=True)],
        "peak": moments.peak,
        "alive": [[alive.name, alive.op, alive.module, alive.kind, alive.bytes] for alive in moments.at_peak[:LISTED]],
        "more": max(len(moments.at_peak) - LISTED, 0),
    }


def _nodes(nodes: Sequence[Node], texts: Texts) -> Json:
    return {
        "name": [node.name for node in nodes],
        "op": texts.numbers_of([node.op for node in nodes]),
        "module": texts.numbers_of([node.module for node in nodes]),
        "backward": [int(node.side == "backward") for node in nodes],
        "shape": texts.numbers_of([node.shape for node in nodes]),
        "bytes": [node.bytes for node in nodes],
        "source": texts.numbers_of([node.source for node in nodes]),
        "role": texts.numbers_of([node.role for node in nodes]),
        "chain": [node.chain for node in nodes],
        "reads": [list(node.reads) for node in nodes],
        "saved": [list(node.from_saved) for node in nodes],
    }


def _row(saved: Saved) -> list[Any]:
    return [
        saved.module or "(model)", saved.op, "x".join(map(str, saved.shape)) or "scalar", saved.dtype, saved.coding,
        saved.bits, saved.bytes_before, saved.bytes_after, ", ".join(saved.consumers),
        ", ".join(path or "(model)" for path in saved.used_in), round(100 * saved.error, 2),
        "" if saved.measured is None else round(100 * saved.measured, 2), saved.early, saved.reason,
        saved.source,
    ]  # fmt: skip


COLUMNS = ("module", "op", "shape", "dtype", "stored as", "bits", "bytes before", "bytes after", "read by", "read in",
           "error %", "measured %", "early", "kept exact", "source")  # fmt: skip
