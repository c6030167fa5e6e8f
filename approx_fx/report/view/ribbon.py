"""The ribbon, laid out: modules as slots from top to bottom, the forward's on the left, the backward's on the right.

Every saved tensor is an arc from the slot where it is made to the slots whose backward reads it; its thickness is its
bytes, on one scale for torch.compile's and ours. Read by several, it parts in equal shares, so that all arcs of a side
together are as thick as what it saves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .layer_folding import Fold, folder, folds_of, shown
from .picture import Picture, Saved

SIDES = ("before", "after")
# Of the height that all slots have at least, the part that torch.compile's saved bytes fill.
FILL = 0.7
THINNEST = 0.03
# (made in, read in, coding, bits)
Key = tuple[str, str, str, int]
FOLDED, UNFOLDED = "folded", "all unfolded"


@dataclass(frozen=True)
class Slot:
    """A module. top, height: from the top downwards, in slots of the least height; fold: its fold's label, or ''."""

    module: str
    top: float
    height: float
    fold: str


@dataclass(frozen=True)
class Arc:
    """Saved tensors of one kind between two slots. left, right: upper ends; thickness: of the whole arc.

    tensors: what it stands for; share: bytes of them that this arc shows.
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
    """One state of folding. arcs: by side, 'before' and 'after'."""

    state: str
    slots: tuple[Slot, ...]
    arcs: Mapping[str, tuple[Arc, ...]]

    @property
    def height(self) -> float:
        """Of all slots."""
        return self.slots[-1].top + self.slots[-1].height if self.slots else 1.0


def ribbons(picture: Picture) -> list[Ribbon]:
    """All states of folding: everything folded, one fold open at a time, nothing folded."""
    folds = folds_of(picture.order, picture.after.saved)
    states: list[tuple[str, list[Fold]]] = [(FOLDED, list(folds))]
    states += [(fold.label, [other for other in folds if other is not fold]) for fold in folds if len(folds) > 1]
    states += [(UNFOLDED, [])] if folds else []
    return [ribbon(picture, state, closed, folds) for state, closed in states]


def ribbon(picture: Picture, state: str, closed: Sequence[Fold], folds: Sequence[Fold]) -> Ribbon:
    """One state. closed: which of the folds are."""
    folded, all_folds, labels = folder(closed), folder(folds), [fold.label for fold in folds]
    bundles = {side: _bundles(getattr(picture, side).saved, folded) for side in SIDES}
    used = {end for side in SIDES for bundle in bundles[side].values() for end in (bundle.source, bundle.target)}
    known = list(dict.fromkeys(shown(path, folded) for path in picture.order))
    modules = [path for path in known if path in used] + sorted(used - set(known))
    total = sum(each.bytes_after for each in picture.before.saved) or 1
    scale = FILL * max(len(modules), 1) / total
    reach = [_reach(bundles[side], scale) for side in SIDES]
    heights = {module: max(1.0, *(each.get(module, 0.0) for each in reach)) for module in modules}
    slots, top = [], 0.0
    for module in modules:
        slots.append(Slot(module, top, heights[module], _fold_of(module, all_folds, labels)))
        top += heights[module]
    places = {slot.module: slot for slot in slots}
    return Ribbon(state, tuple(slots), {side: _arcs(bundles[side], places, scale) for side in SIDES})


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
    found: dict[tuple[str, str, str, int], _Bundle] = {}
    for each in saved:
        source = shown(each.module, folded)
        targets = list(dict.fromkeys(shown(path, folded) for path in each.used_in)) or [source]
        for target in targets:
            key = (source, target, each.coding, each.bits)
            bundle = found.setdefault(key, _Bundle(source, target))
            bundle.share += each.bytes_after / len(targets)
            bundle.tensors.append(each)
    return found


def _reach(bundles: Mapping[Key, _Bundle], scale: float) -> dict[str, float]:
    """Module -> the thickness of all arcs at its slot, on its fuller side, with some air."""
    ends: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for bundle in bundles.values():
        for end, whole in zip((bundle.source, bundle.target), ends, strict=True):
            whole[end] = whole.get(end, 0.0) + max(bundle.share * scale, THINNEST)
    return {module: 1.15 * max(whole.get(module, 0.0) for whole in ends) for module in ends[0] | ends[1]}


def _arcs(bundles: Mapping[Key, _Bundle], places: Mapping[str, Slot], scale: float) -> tuple[Arc, ...]:
    """Arcs leave and enter a slot in the order of their other ends, so that they cross as little as can be."""
    every = sorted(bundles.values(), key=lambda b: (places[b.source].top, places[b.target].top))
    left = _stacked(every, [bundle.source for bundle in every], places, scale)
    entering = sorted(range(len(every)), key=lambda i: (places[every[i].target].top, places[every[i].source].top))
    right = _stacked([every[i] for i in entering], [every[i].target for i in entering], places, scale)
    at = {entering[index]: y for index, y in enumerate(right)}
    return tuple(
        Arc(bundle.source, bundle.target, left[index], at[index], max(bundle.share * scale, THINNEST), bundle.share,
            tuple(bundle.tensors))
        for index, bundle in enumerate(every)
    )  # fmt: skip


def _stacked(bundles: Sequence[_Bundle], ends: Sequence[str], places: Mapping[str, Slot], scale: float) -> list[float]:
    """The upper end of each bundle at its slot, the stack centred in the slot."""
    widths = [max(bundle.share * scale, THINNEST) for bundle in bundles]
    whole: dict[str, float] = {}
    for end, width in zip(ends, widths, strict=True):
        whole[end] = whole.get(end, 0.0) + width
    at = {end: places[end].top + (places[end].height - width) / 2 for end, width in whole.items()}
    found = []
    for end, width in zip(ends, widths, strict=True):
        found.append(at[end])
        at[end] += width
    return found


def _fold_of(module: str, every: Mapping[str, tuple[str, Fold]], labels: Sequence[str]) -> str:
    """The label of the fold that a slot stands for, or, unfolded, lies in. every: of all folds, open ones too."""
    seen = shown(module, every)
    return next((label for label in labels if seen == label or seen.startswith(f"{label}.")), "")
