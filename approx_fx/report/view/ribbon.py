"""Layout of the ribbon: modules are slots from top to bottom, in the forward on the left, in the backward on the right.

A saved tensor is an arc from the module that computes it to each module whose backward reads it. The thickness is its
bytes, on the same scale for both partitions. The bytes are divided equally among several readers, so that the total
thickness of a side's arcs is what it saves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .layer_folding import Fold, drawn_path, find_folds, folds_by_member
from .picture import Picture, Saved

SIDES = ("before", "after")
# The bytes that torch.compile saves fill this part of the total minimum height of the slots.
FILL = 0.7
THINNEST = 0.03
# (module that computes it, module that reads it, coding, bits)
Key = tuple[str, str, str, int]
FOLDED, UNFOLDED = "folded", "all unfolded"


@dataclass(frozen=True)
class Slot:
    """A module. top, height: measured downwards, in units of the smallest slot; fold: its fold's label, or ''."""

    module: str
    top: float
    height: float
    fold: str


@dataclass(frozen=True)
class Arc:
    """Saved tensors of one kind between two slots. left, right: y of the upper edge at both ends; thickness: constant.

    tensors: the saved tensors; share: how many of their bytes this arc shows.
    """

    source: str
    target: str
    left: float
    right: float
    thickness: float
    share: float
    tensors: tuple[Saved, ...]


@dataclass(frozen=True)
class Ribbon:
    """The layout for one choice of closed folds. arcs: by side, 'before' and 'after'."""

    state: str
    slots: tuple[Slot, ...]
    arcs: Mapping[str, tuple[Arc, ...]]

    @property
    def height(self) -> float:
        """Total height of all slots."""
        return self.slots[-1].top + self.slots[-1].height if self.slots else 1.0


def ribbons(picture: Picture) -> list[Ribbon]:
    """All layouts: every fold closed, one fold open at a time, all folds open."""
    folds = find_folds(picture.order, picture.after.saved)
    states: list[tuple[str, list[Fold]]] = [(FOLDED, list(folds))]
    states += [(fold.label, [other for other in folds if other is not fold]) for fold in folds if len(folds) > 1]
    states += [(UNFOLDED, [])] if folds else []
    return [ribbon(picture, state, closed, folds) for state, closed in states]


def ribbon(picture: Picture, state: str, closed: Sequence[Fold], folds: Sequence[Fold]) -> Ribbon:
    """One layout. folds: all of them; closed: those drawn as one slot."""
    closed_folds, all_folds, labels = folds_by_member(closed), folds_by_member(folds), [fold.label for fold in folds]
    bundles = {side: _bundles(getattr(picture, side).saved, closed_folds) for side in SIDES}
    used = {end for side in SIDES for bundle in bundles[side].values() for end in (bundle.source, bundle.target)}
    ordered = list(dict.fromkeys(drawn_path(path, closed_folds) for path in picture.order))
    modules = [path for path in ordered if path in used] + sorted(used - set(ordered))
    total = sum(tensor.bytes_after for tensor in picture.before.saved) or 1
    scale = FILL * max(len(modules), 1) / total
    needed = [_needed_height(bundles[side], scale) for side in SIDES]
    heights = {module: max(1.0, *(of_side.get(module, 0.0) for of_side in needed)) for module in modules}
    slots, top = [], 0.0
    for module in modules:
        slots.append(Slot(module, top, heights[module], _fold_of(module, all_folds, labels)))
        top += heights[module]
    slot_of = {slot.module: slot for slot in slots}
    return Ribbon(state, tuple(slots), {side: _arcs(bundles[side], slot_of, scale) for side in SIDES})


def curve(arc: Arc, points: int = 24) -> tuple[list[float], list[float]]:
    """The arc's outline, from x = 0 on the left to x = 1: along its upper edge and back along the lower."""
    steps = [index / points for index in range(points + 1)]
    upper = [arc.left + (arc.right - arc.left) * t * t * (3 - 2 * t) for t in steps]
    return [*steps, *reversed(steps)], [*upper, *(y + arc.thickness for y in reversed(upper))]


@dataclass
class _Bundle:
    source: str
    target: str
    share: float = 0.0
    tensors: list[Saved] = field(default_factory=list)


def _bundles(
    saved: Sequence[Saved], folded: Mapping[str, tuple[str, Fold]]
) -> dict[tuple[str, str, str, int], _Bundle]:
    bundles: dict[tuple[str, str, str, int], _Bundle] = {}
    for tensor in saved:
        source = drawn_path(tensor.module, folded)
        targets = list(dict.fromkeys(drawn_path(path, folded) for path in tensor.used_in)) or [source]
        for target in targets:
            key = (source, target, tensor.coding, tensor.bits)
            bundle = bundles.setdefault(key, _Bundle(source, target))
            bundle.share += tensor.bytes_after / len(targets)
            bundle.tensors.append(tensor)
    return bundles


def _needed_height(bundles: Mapping[Key, _Bundle], scale: float) -> dict[str, float]:
    """Module -> the height its slot needs: the total thickness of the arcs at its fuller end, and 15 % of space."""
    thickness: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for bundle in bundles.values():
        for end, total in zip((bundle.source, bundle.target), thickness, strict=True):
            total[end] = total.get(end, 0.0) + max(bundle.share * scale, THINNEST)
    return {module: 1.15 * max(total.get(module, 0.0) for total in thickness) for module in thickness[0] | thickness[1]}


def _arcs(bundles: Mapping[Key, _Bundle], slot_of: Mapping[str, Slot], scale: float) -> tuple[Arc, ...]:
    """Place the arcs; at each slot they are in the order of their other ends, so that few of them cross."""
    leaving = sorted(bundles.values(), key=lambda b: (slot_of[b.source].top, slot_of[b.target].top))
    left = _stacked(leaving, [bundle.source for bundle in leaving], slot_of, scale)
    entering = sorted(
        range(len(leaving)), key=lambda i: (slot_of[leaving[i].target].top, slot_of[leaving[i].source].top)
    )
    right = _stacked([leaving[i] for i in entering], [leaving[i].target for i in entering], slot_of, scale)
    right_y = {entering[index]: y for index, y in enumerate(right)}
    return tuple(
        Arc(bundle.source, bundle.target, left[index], right_y[index], max(bundle.share * scale, THINNEST),
            bundle.share, tuple(bundle.tensors))
        for index, bundle in enumerate(leaving)
    )  # fmt: skip


def _stacked(bundles: Sequence[_Bundle], ends: Sequence[str], slot_of: Mapping[str, Slot], scale: float) -> list[float]:
    """The y of each bundle's upper edge at one end; the bundles of a slot are stacked and centred in it."""
    widths = [max(bundle.share * scale, THINNEST) for bundle in bundles]
    totals: dict[str, float] = {}
    for end, width in zip(ends, widths, strict=True):
        totals[end] = totals.get(end, 0.0) + width
    next_y = {end: slot_of[end].top + (slot_of[end].height - total) / 2 for end, total in totals.items()}
    upper_edges = []
    for end, width in zip(ends, widths, strict=True):
        upper_edges.append(next_y[end])
        next_y[end] += width
    return upper_edges


def _fold_of(module: str, all_folds: Mapping[str, tuple[str, Fold]], labels: Sequence[str]) -> str:
    """The label of the fold that a slot stands for or, if that fold is open, belongs to; '' if there is none."""
    folded_path = drawn_path(module, all_folds)
    return next((label for label in labels if folded_path == label or folded_path.startswith(f"{label}.")), "")
