"""Compares the gradients that a plan gives with the exact ones, for graphs small enough to hold all exact values.

The measurement of single values does not see terms of a gradient that cancel. A small graph's backward can be run, op
by op, once exactly and once with codes, with random incoming gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx

from ..config import Config
from ..joint.attribution import module_of
from ..joint.fake_values import memory_order, tensor
from ..passes.pipeline import partition
from ..plan.decisions import Decisions
from ..torch_compat import aot_partitioner as aot
from ..torch_compat.dispatch_modes import undispatched
from ..torch_compat.fake_tensors import size_in_step, symbols_of
from ..torch_compat.lazy_graph_module import copy_graph_module
from .replay import outputs_of, run_graph
from .schedule import affects_others

# Graphs whose own partition by torch saves more are not run.
MOST_BYTES = 2**26
# bits -> the cosine with the exact gradient that all gradients as one vector, and each of them, should have
LEAST_COSINE = {1: -1.0, 2: 0.3, 3: 0.8, 4: 0.95, 5: 0.96, 6: 0.97, 7: 0.98, 8: 0.99}
# Below it all gradients as one vector get more bits, if those help; the cosine above is what they must have.
GOOD_COSINE = 0.98
# A gradient is large if its norm is at least this share of the largest.
LARGE = 0.2
# A large gradient alone may be so many times as far from 1 as all of them together.
SLACK = 2.0
# A small gradient is named if its cosine is this part of the allowed distance from 1: on other data it turns by more.
ALLOWANCE = 0.75
# A gradient may be so many times too large or too small; a cosine does not see that, of a single number only its sign.
MOST_OFF_IN_SIZE = 1.25
# A gradient is rounding noise if it turns by more when its inputs change by one rounding error.
WELL_CONDITIONED = 0.999
MOST_MOVED = 0.05  # or grows or shrinks by more
# A gradient of fewer numbers may be close to 0 for one random incoming gradient by chance: it is compared for several.
FEW_NUMBERS = 8
DRAWS = 4


@dataclass(frozen=True)
class Gradient:
    """One parameter's gradient, or all as one vector. module: of the parameter's first reader; share: its norm
    relative to the largest; cosine: with the exact one, nan if it is not finite; size: its norm relative to the exact
    one's."""

    module: str
    share: float
    cosine: float
    size: float = 1.0

    @property
    def is_off_in_size(self) -> bool:
        """Its norm is too far from that of the exact gradient."""
        return not 1 / MOST_OFF_IN_SIZE <= self.size <= MOST_OFF_IN_SIZE

    @property
    def agreement(self) -> float:
        """The cosine, lowered by as much as the norm is too large or too small; 1 where nothing is wrong."""
        if not self.is_off_in_size:
            return self.cosine
        return self.cosine * MOST_OFF_IN_SIZE * min(self.size, 1 / self.size if self.size else 0.0)


@dataclass(frozen=True)
class Gradients:
    """The gradients of a plan. each: those of the parameters that are not rounding noise."""

    whole: float
    each: Sequence[Gradient]

    def worst(self, large: bool) -> Gradient | None:
        """The gradient with the lowest agreement, of all or of the large ones."""
        candidates = [gradient for gradient in self.each if gradient.share >= LARGE or not large]
        return min(candidates, key=lambda gradient: gradient.agreement, default=None)

    def are_off(self, bits: int) -> bool:
        """All of them together, or a large one, are too far from the exact ones for codes of this width."""
        large, least = self.worst(large=True), LEAST_COSINE[bits]
        return not self.whole >= least or (large is not None and not large.agreement >= 1 - SLACK * (1 - least))

    def small_ones_off(self, bits: int) -> list[Gradient]:
        """The gradients that are, or with other data may be, too far from the exact ones."""
        least = 1 - ALLOWANCE * (1 - LEAST_COSINE[bits])
        return [gradient for gradient in self.each if not gradient.agreement >= least]

    def are_good(self, bits: int) -> bool:
        """More bits are not needed. Of codes of less than 4 bits not more is asked than that they are not off."""
        return not self.are_off(bits) and (bits < 4 or self.whole >= GOOD_COSINE)


def compare_gradients(
    joint: fx.GraphModule,
    options: dict[str, Any],
    config: Config,
    decisions: Decisions,
    inputs: Sequence[Any],
    activations: Sequence[int] = (),
) -> Gradients | None:
    """The gradients that codes give under these decisions, compared with the exact ones.

    None for a graph that cannot be run without an effect, or whose exact gradients are zero or not finite.

    joint: as AOTAutograd gave it; it is not changed. options: the partitioner's. inputs: the forward's. activations:
    indices of inputs that another graph computed.
    """
    exact_graph = aot.simplify_joint_graph(copy_graph_module(joint))
    if any(map(affects_others, exact_graph.graph.nodes)):
        return None
    count, static = options["num_fwd_outputs"], options.get("static_lifetime_input_indices") or ()
    copied = aot.simplify_joint_graph(copy_graph_module(joint))
    coded = partition(copied, count, config, static, decisions, activations)
    placeholders, sizes = exact_graph.graph.find_nodes(op="placeholder"), symbols_of(exact_graph.graph, inputs)
    results = outputs_of(exact_graph)[count:]
    parameters = [index for index in static if index < len(results) and isinstance(results[index], fx.Node)]
    devices = {value.device for value in inputs if isinstance(value, torch.Tensor) and value.is_cuda}
    draws: list[list[list[Any]]] = []
    for draw in range(_draws(placeholders, parameters)):
        tangents = _tangents(placeholders, sizes, draw)
        runs = (
            partial(_gradients, exact_graph, count, [*inputs, *tangents.values()]),
            partial(_gradients_by_halves, coded.forward, coded.backward, count, inputs, tangents),
            partial(_gradients_of_moved, exact_graph, count, inputs, list(tangents.values())),
        )
        results = []
        for run in runs:
            with torch.no_grad(), undispatched(), torch.random.fork_rng(list(devices)):
                results.append(run())
        draws.append(results)
    rows = []
    for index in parameters:
        if isinstance(draws[0][0][index], torch.Tensor):
            exact, ours, moved = (_flat([draw[which][index] for draw in draws]) for which in range(3))
            rows.append((_reader(placeholders[index]), exact, ours, moved))
    return _compared(rows)


def _draws(placeholders: Sequence[fx.Node], parameters: Sequence[int]) -> int:
    """How many random incoming gradients to compare for. parameters: indices of placeholders that have a gradient."""
    sizes = [fake.numel() for index in parameters if (fake := tensor(placeholders[index])) is not None]
    few = any(isinstance(size, int) and size < FEW_NUMBERS for size in sizes)
    incoming = [fake for node in placeholders if aot.is_tangent(node) and (fake := tensor(node)) is not None]
    return DRAWS if few and any(fake.ndim for fake in incoming) else 1


def _gradients(graph: fx.GraphModule, count: int, inputs: Sequence[Any]) -> list[Any]:
    """The gradients by one graph, sketched. count: of the forward's results, which come before them."""
    return run_graph(graph, inputs, sketched_from=count)[count:]


def _gradients_of_moved(graph: fx.GraphModule, count: int, inputs: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
    """The gradients by one graph whose inputs are off by rounding errors, sketched."""
    return run_graph(graph, [*inputs, *tangents], sketched_from=count, moved=len(inputs))[count:]


def _gradients_by_halves(
    forward: fx.GraphModule, backward: fx.GraphModule, count: int, inputs: Sequence[Any], tangents: dict[str, Any]
) -> list[Any]:
    """The gradients by two halves, sketched. count: of the forward's own outputs; what it saves follows them."""
    results = run_graph(forward, list(inputs))
    names = [getattr(node, "name", "") for node in outputs_of(forward)]
    by_name = {**tangents, **dict(zip(names[count:], results[count:], strict=True))}
    del results
    values = [by_name.pop(node.name) for node in backward.graph.find_nodes(op="placeholder")]
    return run_graph(backward, values, sketched_from=0)


def _compared(gradients: Sequence[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]]) -> Gradients | None:
    """Compare gradients, given as (module, exact, ours, exact of inputs that were moved by rounding errors)."""
    largest = max((float(exact.norm()) for _, exact, _, _ in gradients), default=0.0)
    if not 0.0 < largest < float("inf"):
        return None
    each = [
        Gradient(module, float(exact.norm()) / largest, _cosine(exact, ours), _size(exact, ours))
        for module, exact, ours, moved in gradients
        if _cosine(exact, moved) >= WELL_CONDITIONED and abs(_size(exact, moved) - 1) <= MOST_MOVED
    ]
    exact, ours = torch.cat([row[1] for row in gradients]), torch.cat([row[2] for row in gradients])
    return Gradients(_cosine(exact, ours), each)


def _flat(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in values])


def _reader(node: fx.Node) -> str:
    """The module of a parameter's first reader."""
    return next((path for user in node.users if (path := module_of(user))), "") or "the model"


def _size(exact: torch.Tensor, ours: torch.Tensor) -> float:
    """The norm relative to the exact one's; 1 where that is 0."""
    norm = float(exact.norm())
    return float(ours.norm()) / norm if norm else 1.0


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-300))


def _tangents(placeholders: Sequence[fx.Node], sizes: Mapping[Any, int], draw: int) -> dict[str, Any]:
    """Name -> Gaussian values, the same for the same draw, for each incoming gradient; 1 for that of a scalar.

    sizes: see `symbols_of`.
    """
    generator = torch.Generator().manual_seed(draw)
    tangents: dict[str, Any] = {}
    for node in placeholders:
        fake = tensor(node)
        if not aot.is_tangent(node) or fake is None:
            continue
        shape = [size_in_step(size, sizes) if isinstance(size, torch.SymInt) else size for size in fake.shape]
        # The backward's views rely on the strides that were traced.
        order = memory_order(fake) or list(range(fake.ndim))
        noise = torch.randn([shape[dim] for dim in order], generator=generator) if shape else torch.ones(())
        noise = noise.permute([order.index(dim) for dim in range(fake.ndim)])
        tangents[node.name] = noise.to(fake.device, fake.dtype)
    return tangents
