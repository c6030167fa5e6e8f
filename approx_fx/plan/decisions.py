"""`Decisions`: how a plan departs from the rules, because what it saves was measured and found to be too far off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from ..encode.base import Encoding
from ..encode.context import Context
from ..encode.exact import Exact


@dataclass(frozen=True)
class Decisions:
    """Decisions by the names of a joint graph's nodes, which are the same whenever the same code is traced.

    alternatives: the value is stored by this one of its encoding's alternatives, or exactly behind the last.
    not_recomputed: the value is not recomputed from codes. not_stored: the value is not stored but recomputed, if the
    rules allow that. least_bits: no code has fewer. exact: why the whole graph trains exactly, or ''. low_peak: kernels
    hold as few bytes at a time as they can, though they run longer.
    """

    alternatives: Mapping[str, int] = field(default_factory=dict)
    not_recomputed: frozenset[str] = frozenset()
    not_stored: frozenset[str] = frozenset()
    least_bits: int = 0
    exact: str = ""
    low_peak: bool = False

    def key(self) -> str:
        """A text that is the same for the same decisions."""
        sets = f"{sorted(self.not_recomputed)}{sorted(self.not_stored)}"
        low_peak = "low peak" if self.low_peak else ""
        return f"{sorted(self.alternatives.items())}{sets}{self.least_bits or ''}{self.exact}{low_peak}"

    def to_json(self) -> dict[str, Any]:
        """The decisions as JSON data."""
        return {
            "alternatives": dict(self.alternatives),
            "not_recomputed": sorted(self.not_recomputed),
            "not_stored": sorted(self.not_stored),
            "least_bits": self.least_bits,
            "exact": self.exact,
            "low_peak": self.low_peak,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Decisions:
        """Rebuild decisions from what `to_json` returned."""
        not_recomputed, not_stored = frozenset(data["not_recomputed"]), frozenset(data["not_stored"])
        return cls(
            data["alternatives"], not_recomputed, not_stored, data["least_bits"], data["exact"], data["low_peak"]
        )

    def encodings(self, encodings: Mapping[fx.Node, Encoding], context: Context) -> dict[fx.Node, Encoding]:
        """The encodings, with the chosen alternative where there is one."""
        chosen = dict(encodings)
        for value, encoding in encodings.items():
            index = self.alternatives.get(value.name)
            if index is not None and encoding.coded:
                alternatives = encoding.alternatives(value, context)
                chosen[value] = alternatives[index] if index < len(alternatives) else Exact("measured")
        return chosen

    def recompute(self, sources: Mapping[fx.Node, tuple[fx.Node, ...]]) -> dict[fx.Node, tuple[fx.Node, ...]]:
        """Value -> the values that it may be recomputed from, without those that may not."""
        return {value: inputs for value, inputs in sources.items() if value.name not in self.not_recomputed}

    def forbid(self, value: fx.Node, recompute: Mapping[fx.Node, tuple[fx.Node, ...]]) -> bool:
        """Whether the value must not be stored; a value that cannot be recomputed has to be."""
        return value.name in self.not_stored and value in recompute


NONE = Decisions()
