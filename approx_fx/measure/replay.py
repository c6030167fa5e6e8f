"""Runs a graph op by op for the comparison of gradients: without its effects, and with little memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..joint.op_table import VIEWS, name_of, traits
from .schedule import is_write
from .sketch import sketched

ROUNDING_ERROR = 2.0**-22  # twice the distance from 1 to the next number of float32


def run_graph(
    module: fx.GraphModule, inputs: Sequence[Any], sketched_from: int | None = None, moved: int = 0
) -> list[Any]:
    """The outputs of a graph, without its writes to inputs; the same seed gives the same random numbers.

    sketched_from: the outputs from this index on are gradients, which are returned as their sketches. moved: as many of
    the first inputs are off by about one rounding error.
    """
    last = len(outputs_of(module)) if sketched_from is None else sketched_from
    outputs = list(_Replay(module, last, moved).run(*inputs))
    return outputs[:last] + [sketched(value) if isinstance(value, torch.Tensor) else value for value in outputs[last:]]


def outputs_of(module: fx.GraphModule) -> list[Any]:
    """The arguments of a graph's output node."""
    return list(next(iter(module.graph.find_nodes(op="output"))).args[0])  # type: ignore[arg-type]


def moved_by_rounding(value: Any) -> Any:
    """A float tensor whose elements are off by about one rounding error; other values, float8 as well, as they are.

    The noise is the same for the same shape; torch's random state is neither read nor changed.
    """
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype.itemsize == 1:
        return value
    generator = torch.Generator(value.device).manual_seed(0)
    noise = torch.randn(value.shape, generator=generator, dtype=value.dtype, device=value.device)
    return value.addcmul(value, noise, value=ROUNDING_ERROR)


class _Replay(fx.Interpreter):
    """An interpreter that never holds all large gradients, nor a second set of all parameters, at once.

    A gradient is reduced to its sketch as soon as it is computed; an input that is moved is so at each read, also at
    that of a view of it, which would else keep the moved input alive from the forward to the backward.
    """

    def __init__(self, module: fx.GraphModule, last: int, moved: int) -> None:
        """Find the gradients and the views of moved inputs. last: the number of outputs that are not gradients."""
        super().__init__(module)
        outputs = outputs_of(module)
        gradients = {output for output in outputs[last:] if isinstance(output, fx.Node)} - set(outputs[:last])
        self.gradients = {node for node in gradients if all(user.op == "output" for user in node.users)}
        self.inputs: dict[str, Any] = {}
        self.moved = set(module.graph.find_nodes(op="placeholder")[:moved])
        self.views: set[fx.Node] = set()  # of inputs that are moved
        for node in module.graph.nodes:
            sources = set(node.all_input_nodes)
            if name_of(node) in VIEWS and sources and sources <= self.moved | self.views:
                self.views.add(node)

    def run_node(self, node: fx.Node) -> Any:
        result = self._run_seeded(node)
        return sketched(result) if node in self.gradients and isinstance(result, torch.Tensor) else result

    def _run_seeded(self, node: fx.Node) -> Any:
        if not traits(node).seeded:
            return super().run_node(node)
        seed = next(value for value in self.fetch_args_kwargs_from_env(node)[0] if isinstance(value, torch.Tensor))
        with torch.random.fork_rng([seed.device] if seed.is_cuda else []):
            torch.manual_seed(int(seed))
            return super().run_node(node)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return args[0] if is_write(target) else super().call_function(target, args, kwargs)

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().placeholder(target, args, kwargs)
        self.inputs[str(target)] = value
        return value

    def map_nodes_to_values(self, args: Any, n: fx.Node) -> Any:
        return fx.map_arg(args, self.env.__getitem__ if n in self.views else self._value)

    def _value(self, node: fx.Node) -> Any:
        """The value that an op reads of a node; a moved input, or a view of one, is computed for this read."""
        if node in self.moved:
            return moved_by_rounding(self.inputs[str(node.target)])
        if node in self.views:
            args, kwargs = fx.map_arg((node.args, node.kwargs), self._value)
            return node.target(*args, **kwargs)  # type: ignore[operator]
        return self.env[node]
