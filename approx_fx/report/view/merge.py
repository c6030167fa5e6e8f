"""Merge the pictures of a model with graph breaks into one: its graphs one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ...errors import ApproxFxError
from ..data import NOTHING_TO_DRAW, Report
from .liveness import KINDS, Alive, Moment, Moments
from .nodes import Node
from .picture import Picture, Side


def merged(report: Report) -> Picture:
    """One picture of all graphs of a report. Raises ApproxFxError for a report that holds no graph to draw."""
    if not report.pictures:
        raise ApproxFxError(NOTHING_TO_DRAW)
    if len(report.pictures) == 1:
        return report.pictures[0]
    sides = [_side([getattr(picture, name) for picture in report.pictures]) for name in ("before", "after")]
    order = dict.fromkeys(path for picture in report.pictures for path in picture.order)
    return Picture(sides[0], sides[1], tuple(order))


def _side(sides: Sequence[Side]) -> Side:
    return Side(
        tuple(saved for side in sides for saved in side.saved),
        _moments(sides),
        _nodes([side.nodes for side in sides]),
    )


def _moments(sides: Sequence[Side]) -> Moments:
    """All forwards, then all backwards in reverse order; tensors saved by earlier graphs stay alive throughout."""
    saved_earlier = [0] * len(KINDS)
    by_phase: dict[str, list[list[Moment]]] = {"forward": [], "backward": []}
    highest: tuple[int, str, tuple[Alive, ...]] = (-1, "", ())
    alive_earlier: list[Alive] = []
    for number, side in enumerate(sides, 1):
        moments = side.moments
        for phase, graphs in by_phase.items():
            graphs.append(
                [
                    dataclasses.replace(
                        moment,
                        phase=f"{phase} {number}",
                        live=tuple(live + saved for live, saved in zip(moment.live, saved_earlier, strict=True)),
                    )
                    for moment in moments.moments
                    if moment.phase == phase
                ]
            )
        if moments.moments and moments.peak_bytes + sum(saved_earlier) > highest[0]:
            peak = moments.moments[moments.peak]
            alive = (*moments.at_peak, *alive_earlier)
            highest = (moments.peak_bytes + sum(saved_earlier), f"{peak.phase} {number}", alive)
        for saved in side.saved:
            kind = "saved codes" if saved.coding != "exact" else "saved exact"
            saved_earlier[KINDS.index(kind)] += saved.bytes_after
            alive_earlier.append(Alive(saved.name, saved.op, saved.module, kind, saved.bytes_after))
    step = [moment for graph in (*by_phase["forward"], *reversed(by_phase["backward"])) for moment in graph]
    total, phase, at_peak = highest
    peak_index = next((i for i, moment in enumerate(step) if moment.phase == phase and moment.total == total), 0)
    return Moments(tuple(step), peak_index, tuple(sorted(at_peak, key=lambda storage: -storage.bytes)))


def _nodes(graphs: Sequence[tuple[Node, ...]]) -> tuple[Node, ...]:
    """All forwards, then all backwards in reverse order, with indices and chains renumbered."""
    forwards = [[node for node in nodes if node.side == "forward"] for nodes in graphs]
    backwards = [[node for node in nodes if node.side == "backward"] for nodes in graphs]
    new_index: dict[tuple[int, int], int] = {}
    count = 0
    for number, nodes in enumerate(forwards):
        for index in range(len(nodes)):
            new_index[number, index] = count + index
        count += len(nodes)
    for number in reversed(range(len(graphs))):
        for index in range(len(backwards[number])):
            new_index[number, len(forwards[number]) + index] = count + index
        count += len(backwards[number])
    numbered = [*enumerate(forwards), *reversed(list(enumerate(backwards)))]
    chain_counts = [1 + max((node.chain for node in nodes), default=-1) for nodes in graphs]
    first_chain = [sum(chain_counts[:number]) for number in range(len(graphs))]
    return tuple(
        dataclasses.replace(
            node,
            chain=node.chain + first_chain[number] if node.chain >= 0 else -1,
            reads=tuple(new_index[number, index] for index in node.reads),
            from_saved=tuple(new_index[number, index] for index in node.from_saved),
        )
        for number, nodes in numbered
        for node in nodes
    )
