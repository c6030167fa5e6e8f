"""What the page's scripts draw from: the picture as columns, every text once in a table that the columns point into."""

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
    """Texts by number."""

    numbers: dict[str, int] = field(default_factory=dict)

    def __call__(self, text: str) -> int:
        """The text's number."""
        return self.numbers.setdefault(text, len(self.numbers))

    def every(self, values: Sequence[str]) -> list[int]:
        """The numbers of several."""
        return [self(value) for value in values]


def payload(picture: Picture, parameters: int) -> Json:
    """ribbon: states; moments, nodes, table: by side; texts: what numbers in `ribbon` and `nodes` stand for.

    parameters: bytes.
    """
    texts = Texts()
    sides = {side: getattr(picture, side) for side in SIDES}
    return {
        "ribbon": [_ribbon(state, texts) for state in ribbons(picture)],
        "moments": {side: _moments(each.moments) for side, each in sides.items()},
        "parameters": parameters,
        "nodes": {side: _nodes(each.nodes, texts) for side, each in sides.items()},
        "order": list(picture.order),
        "table": {side: [_row(saved) for saved in each.saved] for side, each in sides.items()},
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
            of_bits(arc.tensors[0].bits), *texts.every(_told(arc))]  # fmt: skip


def _told(arc: Arc) -> list[str]:
    """What a pointer over an arc is told: title, shape, coding, bytes, made, read, source, error."""
    first, count = arc.tensors[0], len(arc.tensors)
    shapes = list(dict.fromkeys("x".join(map(str, each.shape)) or "scalar" for each in arc.tensors))
    before, after = (sum(getattr(each, f"bytes_{side}") for each in arc.tensors) for side in SIDES)
    names = first.name if count == 1 else f"{first.name} and {count - 1} more"
    consumers = dict.fromkeys(name for each in arc.tensors for name in each.consumers)
    early = max(each.early for each in arc.tensors)
    return [
        f"{names} ({first.op})",
        ", ".join(shapes[:3]) + (" ..." if len(shapes) > 3 else "") + f" {_each(each.dtype for each in arc.tensors)}",
        _each(map(coding_text, arc.tensors)),
        f"{size(before)} -> {size(after)}",
        arc.source or "(model)",
        f"{arc.target or '(model)'}: {', '.join(consumers)}",
        first.source,
        error_text(first) + (f"; decoded {early} heavy ops early" if early else ""),
    ]


def _each(texts: Iterable[str]) -> str:
    """Every text once."""
    return ", ".join(dict.fromkeys(texts))


def coding_text(saved: Saved) -> str:
    """'channel+mask, 4 bits', or 'exact: small'."""
    if saved.bits and saved.coding != "exact":
        return f"{saved.coding}, {saved.bits} bit{'s' if saved.bits > 1 else ''}"
    return f"exact: {saved.reason}" if saved.reason else "exact"


def error_text(saved: Saved) -> str:
    """The error to expect, in percent of the value; 'none' where it is exact."""
    return f"{saved.error:.1%} if Gaussian" if saved.error else "none"


def _moments(moments: Moments) -> Json:
    every = moments.moments
    return {
        "phase": [each.phase for each in every],
        "op": [each.op for each in every],
        "module": [each.module for each in every],
        "live": [list(column) for column in zip(*(each.live for each in every), strict=True)],
        "peak": moments.peak,
        "alive": [[each.name, each.op, each.module, each.kind, each.bytes] for each in moments.at_peak[:LISTED]],
        "more": max(len(moments.at_peak) - LISTED, 0),
    }


def _nodes(nodes: Sequence[Node], texts: Texts) -> Json:
    return {
        "name": [each.name for each in nodes],
        "op": texts.every([each.op for each in nodes]),
        "module": texts.every([each.module for each in nodes]),
        "backward": [int(each.side == "backward") for each in nodes],
        "shape": texts.every([each.shape for each in nodes]),
        "bytes": [each.bytes for each in nodes],
        "source": texts.every([each.source for each in nodes]),
        "role": texts.every([each.role for each in nodes]),
        "chain": [each.chain for each in nodes],
        "reads": [list(each.reads) for each in nodes],
        "saved": [list(each.from_saved) for each in nodes],
    }


def _row(saved: Saved) -> list[Any]:
    return [
        saved.module or "(model)", saved.op, "x".join(map(str, saved.shape)) or "scalar", saved.dtype, saved.coding,
        saved.bits, saved.bytes_before, saved.bytes_after, ", ".join(saved.consumers),
        ", ".join(path or "(model)" for path in saved.used_in), round(100 * saved.error, 2), saved.early, saved.reason,
        saved.source,
    ]  # fmt: skip


COLUMNS = ("module", "op", "shape", "dtype", "stored as", "bits", "bytes before", "bytes after", "read by", "read in",
           "error %", "early", "kept exact", "source")  # fmt: skip
