"""The table that picks a quantizer for a value: the first line that applies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from ..config import Config
from ..joint.attribution import module_of
from ..joint.batch_norm import BatchNorm
from ..joint.fake_values import is_bool, is_float, memory_order, nbytes, shape, tensor
from ..joint.graph import Joint
from ..joint.masked_fill import is_masked_fill
from ..joint.masks import Mask
from ..joint.module_patterns import last_match
from ..joint.ops import ELEMENT_PRESERVING, name_of, skip_ops
from ..joint.row_norms import RowNorms, find_row_norms
from ..joint.statistics import is_statistic
from ..joint.value_kinds import is_image, is_softmax
from .base import Quantizer
from .bitmask import Bitmask
from .channel import Channel
from .exact import Exact
from .fixed_range import BOUNDS, Unit
from .group import Group, Relu
from .index import Index, index_bits
from .row_sigma import sigma
from .stochastic import Stochastic

# Ops whose float output is a decision taken on the input.
DECISIONS = frozenset(["sign", "sgn", "round", "floor", "ceil", "trunc", "heaviside", "sort", "topk", "bernoulli"])
# Elements that share a scale before a group norm over several channels, which differ in mean and deviation.
SMALL = 128


@dataclass(frozen=True)
class Context:
    """What the choice may look at.

    chains: value -> the batch normalisation it enters. masks: ReLU output -> its mask. reasons: value -> why it is to
    be exact. rows: normalisations over rows.
    """

    joint: Joint
    config: Config
    chains: dict[fx.Node, BatchNorm]
    masks: dict[fx.Node, Mask]
    reasons: Mapping[fx.Node, str]
    rows: RowNorms

    def bits(self, value: fx.Node) -> int:
        """The width of the value's codes: its module's."""
        bits = self.config.bits
        return (last_match(bits, module_of(value), 4) if isinstance(bits, Mapping) else bits) or 8


def context(
    joint: Joint, config: Config, chains: list[BatchNorm], masks: list[Mask], reasons: Mapping[fx.Node, str]
) -> Context:
    """Index chains and masks by the values they apply to."""
    by_value: dict[fx.Node, BatchNorm] = {}
    for chain in chains:
        value = chain.x
        by_value.setdefault(value, chain)
        while name_of(value) in ELEMENT_PRESERVING and isinstance(value.args[0], fx.Node):
            value = value.args[0]
            by_value.setdefault(value, chain)
    relus = {mask.value: mask for mask in masks if _is_relu_mask(mask)}
    return Context(joint, config, by_value, relus, reasons, find_row_norms(joint))


def _is_relu_mask(mask: Mask) -> bool:
    return name_of(mask.value) == "relu" and mask.threshold == 0 and mask.op in ("le", "gt")


def _exact(value: fx.Node, at: Context) -> Quantizer | None:
    own = tensor(value)
    if own is None or own.layout != torch.strided:
        return Exact("sparse")
    if own.is_complex():
        return Exact("complex")
    if value in at.joint.fwd_outputs:
        return Exact("output")
    if value in at.reasons:
        return Exact(at.reasons[value])
    if nbytes(value) < at.config.min_bytes:
        return Exact("small")
    if is_statistic(value):
        return Exact("statistic")
    if not is_bool(value) and not own.dtype.is_floating_point:
        return None if index_bits(value) is not None and memory_order(own) is not None else Exact("integer")
    if name_of(value) in DECISIONS:
        return Exact("decision")
    if not is_bool(value) and not is_float(value):
        return Exact("dtype")
    if is_masked_fill(value):
        return Exact("filled")
    return Exact("not dense") if memory_order(own) is None else None


def _bitmask(value: fx.Node, at: Context) -> Quantizer | None:
    return Bitmask() if is_bool(value) else None


def _channel(value: fx.Node, at: Context) -> Quantizer | None:
    chain = at.chains.get(value)
    if chain is None or shape(value) != shape(chain.x):
        return None
    aligned = [mask for mask in chain.masks if shape(mask.node) == shape(value)]
    return Channel(at.bits(value), at.config.grid, chain, aligned[0] if aligned else None)


def _row(value: fx.Node, at: Context) -> Quantizer | None:
    """Only where asked for: with outliers, a window in sigmas clips what min and max would hold (see the README)."""
    if at.config.rows != "sigma":
        return None
    normalized = at.rows.by_normalized.get(skip_ops(value, ELEMENT_PRESERVING))
    row = normalized or at.rows.by_input.get(value)
    return sigma(at.bits(value), at.config.grid, row, value, normalized is not None) if row is not None else None


def _index(value: fx.Node, at: Context) -> Quantizer | None:
    bits = index_bits(value)
    return Index(bits) if bits is not None else None


def _relu(value: fx.Node, at: Context) -> Quantizer | None:
    source = skip_ops(value, ELEMENT_PRESERVING)
    if is_softmax(source):
        return Relu(at.bits(value), at.config.group, None, _along(value), sharp=True)
    if name_of(source) != "relu":
        return None
    return Relu(at.bits(value), at.config.group, at.masks.get(source), _along(value))


def _unit(value: fx.Node, at: Context) -> Quantizer | None:
    bounds = BOUNDS.get(name_of(skip_ops(value, ELEMENT_PRESERVING)))
    return Unit(at.bits(value), *bounds) if bounds else None


def _group(value: fx.Node, at: Context) -> Quantizer | None:
    if value in at.rows.by_input and is_image(value):
        return Group(at.bits(value), min(at.config.group, SMALL), "space")
    return Group(at.bits(value), at.config.group, _along(value))


def _along(value: fx.Node) -> str:
    return "channels" if is_image(value) else "memory"


def _stochastic(value: fx.Node, at: Context) -> Quantizer | None:
    """For every float value: a grid with a window, or with its ends inside the bins, is not right on average."""
    if at.config.rounding != "stochastic" or is_bool(value):
        return None
    relu = skip_ops(value, ELEMENT_PRESERVING)
    bits, mask = at.bits(value), at.masks.get(relu) if name_of(relu) == "relu" else None
    return Stochastic(bits, at.config.group, _along(value), mask if bits > 1 else None, at.config.seed)


TABLE: tuple[Callable[[fx.Node, Context], Quantizer | None], ...] = (
    _exact,
    _bitmask,
    _index,
    _stochastic,
    _channel,
    _row,
    _relu,
    _unit,
    _group,
)


def choose(value: fx.Node, at: Context) -> Quantizer:
    """The quantizer for a value, exact if coding it would not make it smaller."""
    for line in TABLE:
        quantizer = line(value, at)
        if quantizer is not None:
            own = tensor(value)
            if own is not None and not isinstance(quantizer, Exact) and quantizer.nbytes(own) >= nbytes(value):
                return Exact("small")
            return quantizer
    raise AssertionError("the table's last line applies to every value")


def owned_mask(quantizer: Quantizer) -> fx.Node | None:
    """The mask node that is a bit of the quantizer's code, if any."""
    mask = getattr(quantizer, "mask", None)
    return mask.node if mask is not None else None
