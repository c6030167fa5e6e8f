"""Live bytes through a step by kind, node by node, as `memory.predicted_peak` counts them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from torch import fx

from ...joint.attribution import module_of
from ...joint.fake_values import nbytes
from ...joint.op_table import VIEWS
from ...joint.ops import name_of, skip_ops
from ...torch_compat.aot_partitioner import is_tangent
from ..predicted_peak import events, handed_over
from .nodes import is_ours

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
    saved = given | {skip_ops(node, VIEWS).name for node in forward.graph.nodes if node.name in given}
    gradients = {skip_ops(node, VIEWS).name for node in _outputs(backward)}

    def kind_of(node: fx.Node, phase: str) -> str:
        if node.op == "placeholder" and is_tangent(node):
            return "gradients"
        if phase == "forward" or node.op == "placeholder":
            return "other temporaries" if node.name not in saved else KINDS[node.name in codes]
        if node.name in gradients:
            return "gradients"
        return "decoded" if node.name in copies or is_ours(node) else "other temporaries"

    found: list[Moment] = []
    most, peak = -1, 0
    at_peak: tuple[Alive, ...] = ()
    for phase, half, start in (("forward", forward, []), ("backward", backward, handed_over(backward))):
        alive = {node: _alive(node, kind_of(node, phase)) for node in start}
        sums = dict.fromkeys(KINDS, 0)
        for each in alive.values():
            sums[each.kind] += each.bytes
        if start:
            found.append(Moment(phase, "", "start", "", tuple(sums.values())))
        highest = -1
        for event in events(half, start):
            if event.made:
                made = alive[event.node] = _alive(event.node, kind_of(event.node, phase))
                sums[made.kind] += made.bytes
                found.append(Moment(phase, made.name, made.op, made.module, tuple(sums.values())))
                highest = max(highest, found[-1].total)
            for node in event.freed:
                gone = alive.pop(node, None)
                if gone is not None:
                    sums[gone.kind] -= gone.bytes
        if highest > most:
            most = highest
            peak = next(i for i, moment in enumerate(found) if moment.phase == phase and moment.total == most)
            at_peak = _alive_at(half, start, found[peak].node, partial(kind_of, phase=phase))
    return Moments(tuple(found), peak, tuple(sorted(at_peak, key=lambda each: -each.bytes)))


def _alive(node: fx.Node, kind: str) -> Alive:
    return Alive(node.name, name_of(node), module_of(node), kind, nbytes(node))


def _alive_at(
    half: fx.GraphModule, start: list[fx.Node], name: str, kind_of: Callable[[fx.Node], str]
) -> tuple[Alive, ...]:
    """What is alive with the result of the node of this name."""
    alive = dict.fromkeys(start)
    for event in events(half, start):
        if event.made:
            alive[event.node] = None
        if event.node.name == name:
            break
        for node in event.freed:
            alive.pop(node, None)
    return tuple(_alive(node, kind_of(node)) for node in alive)


def _outputs(half: fx.GraphModule) -> list[fx.Node]:
    return next(iter(half.graph.find_nodes(op="output"))).all_input_nodes
