"""Bytes alive through a step by kind, node by node, counted as `report.predicted_peak` counts them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from torch import fx

from ...joint.attribution import module_of
from ...joint.fake_values import nbytes
from ...joint.op_table import VIEWS, name_of, skip_ops
from ...torch_compat.aot_partitioner import is_tangent
from ..predicted_peak import events, handed_over
from .nodes import is_encoding_op

# In the order of the stacked areas, from the bottom; parameters, always alive, are drawn below them.
KINDS = ("saved exact", "saved codes", "decoded", "gradients", "other temporaries")


@dataclass(frozen=True)
class Alive:
    """One storage that is alive. op, module: the op that allocated it, and that op's module."""

    name: str
    op: str
    module: str
    kind: str
    bytes: int


@dataclass(frozen=True)
class Moment:
    """A node of a half has run. live: bytes alive of each of KINDS, its result included, parameters and inputs not."""

    phase: str
    node: str
    op: str
    module: str
    live: tuple[int, ...]

    @property
    def total(self) -> int:
        """Bytes alive, of all kinds."""
        return sum(self.live)


@dataclass(frozen=True)
class Moments:
    """A step. peak: index of the first moment with the most bytes; at_peak: the storages alive then, largest first."""

    moments: tuple[Moment, ...]
    peak: int
    at_peak: tuple[Alive, ...]

    @property
    def peak_bytes(self) -> int:
        """Bytes alive at the peak, 0 for an empty step."""
        return self.moments[self.peak].total if self.moments else 0


def moments_of(
    forward: fx.GraphModule,
    backward: fx.GraphModule,
    codes: Collection[str] = (),
    copies: Collection[str] = (),
    activations: Collection[str] = (),
) -> Moments:
    """The moments of both halves.

    codes: names of saved codes and scales; copies: of decoded or recomputed nodes; activations: of inputs that another
    graph computed.
    """
    passed = handed_over(backward, activations)
    passed_names = {node.name for node in passed}
    roots = {skip_ops(node, VIEWS).name for node in forward.graph.nodes if node.name in passed_names}
    saved = passed_names | roots
    gradients = {skip_ops(node, VIEWS).name for node in _outputs(backward)}

    def kind_of(node: fx.Node, phase: str) -> str:
        if node.op == "placeholder" and is_tangent(node):
            return "gradients"
        if phase == "forward" or node.op == "placeholder":
            return "other temporaries" if node.name not in saved else KINDS[node.name in codes]
        if node.name in gradients:
            return "gradients"
        return "decoded" if node.name in copies or is_encoding_op(node) else "other temporaries"

    moments: list[Moment] = []
    highest, peak = -1, 0
    at_peak: tuple[Alive, ...] = ()
    for phase, half, start in (("forward", forward, []), ("backward", backward, passed)):
        alive = {node: _alive(node, kind_of(node, phase)) for node in start}
        live_bytes = dict.fromkeys(KINDS, 0)
        for storage in alive.values():
            live_bytes[storage.kind] += storage.bytes
        if start:
            moments.append(Moment(phase, "", "start", "", tuple(live_bytes.values())))
        phase_peak = -1
        for event in events(half, start):
            if event.allocates:
                storage = alive[event.node] = _alive(event.node, kind_of(event.node, phase))
                live_bytes[storage.kind] += storage.bytes
                moments.append(Moment(phase, storage.name, storage.op, storage.module, tuple(live_bytes.values())))
                phase_peak = max(phase_peak, moments[-1].total)
            for node in event.freed:
                freed = alive.pop(node, None)
                if freed is not None:
                    live_bytes[freed.kind] -= freed.bytes
        if phase_peak > highest:
            highest = phase_peak
            peak = next(i for i, moment in enumerate(moments) if moment.phase == phase and moment.total == highest)
            at_peak = _alive_at(half, start, moments[peak].node, partial(kind_of, phase=phase))
    return Moments(tuple(moments), peak, tuple(sorted(at_peak, key=lambda storage: -storage.bytes)))


def _alive(node: fx.Node, kind: str) -> Alive:
    return Alive(node.name, name_of(node), module_of(node), kind, nbytes(node))


def _alive_at(
    half: fx.GraphModule, start: list[fx.Node], name: str, kind_of: Callable[[fx.Node], str]
) -> tuple[Alive, ...]:
    """The storages alive when the node of this name has run."""
    alive = dict.fromkeys(start)
    for event in events(half, start):
        if event.allocates:
            alive[event.node] = None
        if event.node.name == name:
            break
        for node in event.freed:
            alive.pop(node, None)
    return tuple(_alive(node, kind_of(node)) for node in alive)


def _outputs(half: fx.GraphModule) -> list[fx.Node]:
    return next(iter(half.graph.find_nodes(op="output"))).all_input_nodes
