"""Live bytes through a step by kind, node by node, as `memory.predicted_peak` counts them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import fx

from ..host.split import is_tangent
from ..joint.attribution import module_of
from ..joint.ops import VIEWS, name_of, through
from ..joint.values import nbytes
from ..memory import events, handed_over

# From the bottom of the stack; parameters lie below them all, and are there throughout.
KINDS = ("saved exact", "saved codes", "decoded", "gradients", "other temporaries")


@dataclass(frozen=True)
class Alive:
    """One storage. bytes: its size; op, module: what made it."""

    name: str
    op: str
    module: str
    kind: str
    bytes: int


@dataclass(frozen=True)
class Moment:
    """A node of a half has run. live: bytes of each of KINDS alive with its result, parameters and inputs left out."""

    phase: str
    node: str
    op: str
    module: str
    live: tuple[int, ...]

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return sum(self.live)


@dataclass(frozen=True)
class Moments:
    """A step. peak: index of the first moment with most bytes; at_peak: what is alive there, largest first."""

    moments: tuple[Moment, ...]
    peak: int
    at_peak: tuple[Alive, ...]

    @property
    def peak_bytes(self) -> int:
        """Bytes alive at the peak."""
        return self.moments[self.peak].total if self.moments else 0


def moments_of(
    forward: fx.GraphModule, backward: fx.GraphModule, codes: Collection[str] = (), copies: Collection[str] = ()
) -> Moments:
    """The moments of both halves. codes: names of saved codes and scales; copies: of what is decoded or recomputed."""
    given = {node.name for node in handed_over(backward)}
    saved = given | {through(node, VIEWS).name for node in forward.graph.nodes if node.name in given}
    gradients = {through(node, VIEWS).name for node in _outputs(backward)}

    def kind_of(node: fx.Node, phase: str) -> str:
        if node.op == "placeholder" and is_tangent(node):
            return "gradients"
        if phase == "forward" or node.op == "placeholder":
            return "other temporaries" if node.name not in saved else KINDS[node.name in codes]
        if node.name in gradients:
            return "gradients"
        return "decoded" if node.name in copies else "other temporaries"

    found: list[Moment] = []
    most = -1
    at_peak: tuple[Alive, ...] = ()
    for phase, half, start in (("forward", forward, []), ("backward", backward, handed_over(backward))):
        alive = {node: Alive(node.name, name_of(node), module_of(node), kind_of(node, phase), nbytes(node))
                 for node in start}  # fmt: skip
        if start:
            found.append(Moment(phase, "", "start", "", _live(alive)))
        for event in events(half, start):
            if event.made:
                node = event.node
                alive[node] = Alive(node.name, name_of(node), module_of(node), kind_of(node, phase), nbytes(node))
                found.append(Moment(phase, node.name, name_of(node), module_of(node), _live(alive)))
            if found and found[-1].total > most:
                most, at_peak = found[-1].total, tuple(alive.values())
            for node in event.freed:
                alive.pop(node, None)
    peak = next((index for index, moment in enumerate(found) if moment.total == most), 0)
    return Moments(tuple(found), peak, tuple(sorted(at_peak, key=lambda each: -each.bytes)))


def _live(alive: dict[fx.Node, Alive]) -> tuple[int, ...]:
    sums = dict.fromkeys(KINDS, 0)
    for each in alive.values():
        sums[each.kind] += each.bytes
    return tuple(sums.values())


def _outputs(half: fx.GraphModule) -> list[fx.Node]:
    return next(iter(half.graph.find_nodes(op="output"))).all_input_nodes
