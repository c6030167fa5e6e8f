"""Compares the gradients that a plan gives with the exact ones, for graphs small enough to hold all exact values.

The measurement of single values does not see terms of a gradient that cancel. A small graph's backward can be run, op
by op, once exactly and once with codes, with random incoming gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..config import Config
from ..joint.fake_values import tensor
from ..joint.op_table import traits
from ..passes.pipeline import partition
from ..plan.decisions import Decisions
from ..torch_compat import aot_partitioner as aot
from ..torch_compat.dispatch_modes import undispatched
from ..torch_compat.fake_tensors import size_in_step, symbols_of
from ..torch_compat.lazy_graph_module import copy_graph_module
from .schedule import affects_others, is_write

# Graphs whose own partition by torch saves more are not run.
MOST_BYTES = 2**25
# bits -> the cosine of a graph's gradient with the exact one below which it trains exactly
LEAST_COSINE = {1: -1.0, 2: 0.3, 3: 0.7, 4: 0.9, 5: 0.93, 6: 0.95, 7: 0.97, 8: 0.985}
# The same for a single parameter's gradient: so much further off, and only if it is LARGE.
SINGLE = 0.15
LARGE = 0.2


def gradient_margin(
    joint: fx.GraphModule, options: dict[str, Any], config: Config, decisions: Decisions, inputs: Sequence[Any]
) -> tuple[float, float] | None:
    """(cosine of all gradients as one vector, lowest of a large gradient) under these decisions, with the exact ones.

    A gradient is large if its norm is at least LARGE of the largest. nan where a gradient is not finite that is finite
    exactly; None for a graph that cannot be run without an effect, or whose exact gradients are not finite.

    joint: as AOTAutograd gave it; it is not changed. options: the partitioner's. inputs: the forward's.
    """
    exact_graph = aot.simplify_joint_graph(copy_graph_module(joint))
    if any(map(affects_others, exact_graph.graph.nodes)):
        return None
    count, static = options["num_fwd_outputs"], options.get("static_lifetime_input_indices") or ()
    coded = partition(aot.simplify_joint_graph(copy_graph_module(joint)), count, config, static, decisions)
    tangents = _tangents(exact_graph.graph, inputs)
    devices = {value.device for value in inputs if isinstance(value, torch.Tensor) and value.is_cuda}
    with torch.no_grad(), undispatched():
        with torch.random.fork_rng(list(devices)):
            exact = _run(exact_graph, [*inputs, *tangents.values()])[count:]
        with torch.random.fork_rng(list(devices)):
            results = _run(coded.forward, list(inputs))
            names = [getattr(node, "name", "") for node in _outputs(coded.forward)]
            by_name = {**tangents, **dict(zip(names[count:], results[count:], strict=True))}
            del results
            placeholders = coded.backward.graph.find_nodes(op="placeholder")
            ours = _run(coded.backward, [by_name[node.name] for node in placeholders])
    return _cosines([(exact[index], ours[index]) for index in static if index < len(exact)])


def _cosines(pairs: Sequence[tuple[Any, Any]]) -> tuple[float, float] | None:
    gradients = [
        (exact.double().flatten(), ours.double().flatten())
        for exact, ours in pairs
        if isinstance(exact, torch.Tensor) and isinstance(ours, torch.Tensor)
    ]
    if not gradients:
        return None
    largest = max(float(exact.norm()) for exact, _ in gradients)
    if not 0.0 < largest < float("inf"):
        return None
    lowest = min(_cosine(exact, ours) for exact, ours in gradients if float(exact.norm()) >= LARGE * largest)
    exact, ours = (torch.cat(side) for side in zip(*gradients, strict=True))
    return _cosine(exact, ours), lowest


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-300))


def _tangents(graph: fx.Graph, inputs: Sequence[Any]) -> dict[str, Any]:
    """Name -> Gaussian values, the same at each call, for each incoming gradient; 1 for that of a scalar."""
    sizes = symbols_of(graph, inputs)
    generator = torch.Generator().manual_seed(0)
    tangents: dict[str, Any] = {}
    for node in graph.find_nodes(op="placeholder"):
        fake = tensor(node)
        if not aot.is_tangent(node) or fake is None:
            continue
        shape = [size_in_step(size, sizes) if isinstance(size, torch.SymInt) else size for size in fake.shape]
        noise = torch.randn(shape, generator=generator) if shape else torch.ones(())
        tangents[node.name] = noise.to(fake.device, fake.dtype)
    return tangents


def _outputs(module: fx.GraphModule) -> list[Any]:
    return list(next(iter(module.graph.find_nodes(op="output"))).args[0])  # type: ignore[arg-type]


def _run(module: fx.GraphModule, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of a graph, op by op, without its writes to inputs."""
    return list(_Replayed(module).run(*inputs))


class _Replayed(fx.Interpreter):
    """Runs a graph without its writes; the same seed gives the same random numbers, as in compiled code."""

    def run_node(self, node: fx.Node) -> Any:
        if not traits(node).seeded:
            return super().run_node(node)
        seed = next(value for value in self.fetch_args_kwargs_from_env(node)[0] if isinstance(value, torch.Tensor))
        with torch.random.fork_rng([seed.device] if seed.is_cuda else []):
            torch.manual_seed(int(seed))
            return super().run_node(node)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return args[0] if is_write(target) else super().call_function(target, args, kwargs)
