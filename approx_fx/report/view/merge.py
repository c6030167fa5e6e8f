"""A model's graphs as one picture: broken graphs one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ...errors import ApproxFxError
from ..data import NOTHING_TO_DRAW, Report
from .liveness import KINDS, Alive, Moment, Moments
from .nodes import Node
from .picture import Picture, Side


def merged(report: Report) -> Picture:
    """All graphs of a report from `explain`. Raises ApproxFxError for a report that holds no graph to draw."""
    if not report.pictures:
        raise ApproxFxError(NOTHING_TO_DRAW)
    if len(report.pictures) == 1:
        return report.pictures[0]
    sides = [_side([getattr(each, name) for each in report.pictures]) for name in ("before", "after")]
    order = dict.fromkeys(path for each in report.pictures for path in each.order)
    return Picture(sides[0], sides[1], tuple(order))


def _side(sides: Sequence[Side]) -> Side:
    return Side(
        tuple(saved for side in sides for saved in side.saved),
        _moments(sides),
        _nodes([side.nodes for side in sides]),
    )


def _moments(sides: Sequence[Side]) -> Moments:
    """All forwards, then all backwards, the last graph's first; what earlier graphs saved is there throughout."""
    held = [0] * len(KINDS)
    lists: dict[str, list[list[Moment]]] = {"forward": [], "backward": []}
    best: tuple[int, str, tuple[Alive, ...]] = (-1, "", ())
    earlier: list[Alive] = []
    for number, side in enumerate(sides, 1):
        moments = side.moments
        for phase, found in lists.items():
            found.append(
                [
                    dataclasses.replace(
                        each,
                        phase=f"{phase} {number}",
                        live=tuple(own + base for own, base in zip(each.live, held, strict=True)),
                    )
                    for each in moments.moments
                    if each.phase == phase
                ]
            )
        if moments.moments and moments.peak_bytes + sum(held) > best[0]:
            peak = moments.moments[moments.peak]
            best = (moments.peak_bytes + sum(held), f"{peak.phase} {number}", (*moments.at_peak, *earlier))
        for each in side.saved:
            kind = "saved codes" if each.coding != "exact" else "saved exact"
            held[KINDS.index(kind)] += each.bytes_after
            earlier.append(Alive(each.name, each.op, each.module, kind, each.bytes_after))
    every = [moment for part in (*lists["forward"], *reversed(lists["backward"])) for moment in part]
    peak_at = next((i for i, each in enumerate(every) if each.phase == best[1] and each.total == best[0]), 0)
    return Moments(tuple(every), peak_at, tuple(sorted(best[2], key=lambda each: -each.bytes)))


def _nodes(every: Sequence[tuple[Node, ...]]) -> tuple[Node, ...]:
    """All forwards, then all backwards, the last graph's first."""
    forwards = [[node for node in nodes if node.side == "forward"] for nodes in every]
    backwards = [[node for node in nodes if node.side == "backward"] for nodes in every]
    place: dict[tuple[int, int], int] = {}
    count = 0
    for number, nodes in enumerate(forwards):
        for index in range(len(nodes)):
            place[number, index] = count + index
        count += len(nodes)
    for number in reversed(range(len(every))):
        for index in range(len(backwards[number])):
            place[number, len(forwards[number]) + index] = count + index
        count += len(backwards[number])
    numbered = [*enumerate(forwards), *reversed(list(enumerate(backwards)))]
    chains = [1 + max((node.chain for node in nodes), default=-1) for nodes in every]
    first = [sum(chains[:number]) for number in range(len(every))]
    return tuple(
        dataclasses.replace(
            node,
            chain=node.chain + first[number] if node.chain >= 0 else -1,
            reads=tuple(place[number, index] for index in node.reads),
            from_saved=tuple(place[number, index] for index in node.from_saved),
        )
        for number, nodes in numbered
        for node in nodes
    )
