"""`Context`: all that an encoding may consult, beside the value itself, to decide whether it applies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from ..config import Config
from ..joint.attribution import module_of
from ..joint.batch_norm import BatchNorm
from ..joint.facts import Facts
from ..joint.graph import JointGraph
from ..joint.masks import Mask
from ..joint.module_patterns import last_match
from ..joint.op_table import ELEMENT_PRESERVING, name_of
from ..joint.parts import part_length
from ..joint.row_norms import RowNorms, find_row_norms
from .tile import largest_divisor


@dataclass(frozen=True)
class Context:
    """The options and all facts about the joint graph.

    batch_norms: value -> the batch normalisation that reads it, also through casts. relu_masks: ReLU output -> its
    mask. reasons: value -> the key in `exact.REASONS` for which it must be exact. row_norms: normalisations over rows.
    least_bits: no code has fewer, whatever the options say.
    """

    joint: JointGraph
    config: Config
    facts: Facts
    batch_norms: dict[fx.Node, BatchNorm]
    relu_masks: dict[fx.Node, Mask]
    reasons: Mapping[fx.Node, str]
    row_norms: RowNorms
    least_bits: int = 0

    @classmethod
    def of(
        cls,
        joint: JointGraph,
        config: Config,
        facts: Facts,
        batch_norms: list[BatchNorm],
        masks: list[Mask],
        reasons: Mapping[fx.Node, str],
        least_bits: int = 0,
    ) -> Context:
        """Index batch normalisations and masks by the values they apply to, and find the norms over rows."""
        by_value: dict[fx.Node, BatchNorm] = {}
        for norm in batch_norms:
            value = norm.x
            by_value.setdefault(value, norm)
            while name_of(value) in ELEMENT_PRESERVING and isinstance(value.args[0], fx.Node):
                value = value.args[0]
                by_value.setdefault(value, norm)
        relu_masks = {mask.value: mask for mask in masks if _is_relu_mask(mask)}
        return cls(joint, config, facts, by_value, relu_masks, reasons, find_row_norms(joint), least_bits)

    def bits(self, value: fx.Node) -> int:
        """The width of the value's codes, which the options set for its module."""
        bits = self.config.bits
        width = (last_match(bits, module_of(value), 4) if isinstance(bits, Mapping) else bits) or 8
        return max(width, self.least_bits)

    def tile(self, value: fx.Node) -> int:
        """The number of elements of a tile: the option `group`, or less where the value has parts along its rows."""
        part, group = part_length(value), self.config.group
        return group if part is None else largest_divisor(part, group)

    def grouping(self, value: fx.Node) -> str:
        """The elements of the value that form a tile, by name: "channels" or "memory", see `Tile.of`."""
        return "channels" if value in self.facts.images else "memory"


def _is_relu_mask(mask: Mask) -> bool:
    return name_of(mask.value) == "relu" and mask.threshold == 0 and mask.op in ("le", "gt")
