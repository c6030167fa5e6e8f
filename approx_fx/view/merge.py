"""A model's graphs as one picture: broken graphs one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..errors import ApproxFxError
from ..report import Report
from .moments import Moments
from .nodes import Node
from .picture import Picture, Side


def merged(report: Report) -> Picture:
    """All graphs of a report from `explain`. Raises ApproxFxError for a report that holds no graph to draw."""
    if not report.pictures:
        raise ApproxFxError(
            "this report holds no graph to draw: one of a training run keeps bytes alone, and a model that is not "
            "compiled has none. Call approx_fx.view(model, *inputs, path=...), or save the report of approx_fx.explain."
        )
    if len(report.pictures) == 1:
        return report.pictures[0]
    sides = [_side([getattr(each, name) for each in report.pictures]) for name in ("before", "after")]
    order = dict.fromkeys(path for each in report.pictures for path in each.order)
    return Picture(sides[0], sides[1], tuple(order), max(each.parameters for each in report.pictures))


def _side(sides: Sequence[Side]) -> Side:
    return Side(
        tuple(saved for side in sides for saved in side.saved),
        _moments([side.moments for side in sides]),
        _nodes([side.nodes for side in sides]),
    )


def _moments(every: Sequence[Moments]) -> Moments:
    found = [
        dataclasses.replace(moment, phase=f"{moment.phase} {number}")
        for number, moments in enumerate(every, 1)
        for moment in moments.moments
    ]
    highest = max(every, key=lambda moments: moments.peak_bytes)
    before = sum(len(moments.moments) for moments in every[: list(every).index(highest)])
    return Moments(tuple(found), before + highest.peak, highest.at_peak)


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
    return tuple(
        dataclasses.replace(
            node,
            reads=tuple(place[number, index] for index in node.reads),
            from_saved=tuple(place[number, index] for index in node.from_saved),
        )
        for number, nodes in numbered
        for node in nodes
    )
