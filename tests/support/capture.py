"""Looking inside: the joint graph, both halves, and the values they compute on real data."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch import fx, nn

from approx_fx.bench.target import noise_loss
from approx_fx.config import Config
from approx_fx.inductor import compile as inductor
from approx_fx.joint.op_table import name_of
from approx_fx.passes.pipeline import partition
from approx_fx.passes.state import Partition
from approx_fx.torch_compat import aot_partitioner as aot
from approx_fx.torch_compat.lazy_graph_module import copy_graph_module


class Record(fx.Interpreter):
    """Runs a graph and keeps every node's value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.values[n.name] = value.clone() if isinstance(value, torch.Tensor) else value
        return value


@dataclass
class Captured:
    """One model's step. joint: the graph before the pass; before, forward, backward: node name -> value."""

    joint: fx.GraphModule | None = None
    done: Partition | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)
    inputs: list[tuple[Any, ...]] = field(default_factory=list)

    def run_joint(self) -> dict[str, Any]:
        """Every value of the unchanged joint graph, on the inputs and gradients of the captured step."""
        assert self.joint is not None and self.done is not None
        tangents = len([n for n in self.joint.graph.find_nodes(op="placeholder") if aot.is_tangent(n)])
        record = Record(self.joint)
        record.run(*copy.deepcopy(self.inputs[0]), *self.inputs[1][-tangents:])
        return record.values


def capture(
    model: nn.Module,
    *inputs: Any,
    run: bool = True,
    dtype: Any = None,
    look: Callable[[fx.GraphModule, int], None] | None = None,
    **options: Any,
) -> Captured:
    """Partition the model's graph under Config(**options), and run one step if asked to.

    look: gets the simplified joint graph, to change as it likes, and how many of its outputs are the forward's.
    """
    seen = Captured()

    def hook(module: fx.GraphModule, joint_inputs: Any, **given: Any) -> Any:
        aot.simplify_joint_graph(module)
        seen.joint = fx.GraphModule(module, copy.deepcopy(module.graph))
        if look is not None:
            look(copy_graph_module(module), given["num_fwd_outputs"])
        seen.done = partition(module, given["num_fwd_outputs"], Config(**options))
        return seen.done.forward, seen.done.backward

    def compiler(module: fx.GraphModule, _: Any) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if not run:
                return module.forward(*args)
            seen.inputs.append(tuple(copy.deepcopy(a.detach()) if isinstance(a, torch.Tensor) else a for a in args))
            record = Record(module)
            result = record.run(*args)
            seen.calls.append(record.values)
            return result

        return make_boxed_func(call)

    def backend(module: fx.GraphModule, values: Any) -> Any:
        partitioner, seeds = inductor.Partitioner("test", hook), options.get("compiler") != "eager"
        return inductor.compile_halves(module, values, partitioner, compiler, seeds=seeds)

    torch._dynamo.reset()
    compiled = torch.compile(lambda *args: model(*args), backend=backend)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        output = compiled(*inputs)
    if run:
        noise_loss(output).backward()
    assert seen.done is not None
    return seen


def text(module: fx.GraphModule) -> str:
    """A graph as text: one node a line, values numbered in order, so that names do not matter."""
    number: dict[fx.Node, str] = {}
    lines = []
    for node in module.graph.nodes:
        if node.op == "output":
            args = [number.get(a, str(a)) for a in _flat(node.args)]
            lines.append(f"return {', '.join(args)}")
            continue
        number[node] = f"%{len(number)}"
        value = node.meta.get("val")
        kind = (
            f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}" if isinstance(value, torch.Tensor) else ""
        )
        if node.op == "placeholder":
            role = "tangent" if aot.is_tangent(node) else "primal" if "primals" in node.name else "saved"
            lines.append(f"{number[node]}: {kind} = {role}")
        else:
            args = ", ".join(_show(a, number) for a in (*node.args, *node.kwargs.values()))
            lines.append(f"{number[node]}: {kind} = {name_of(node)}({args})")
    return "\n".join(lines) + "\n"


def _show(item: Any, number: dict[fx.Node, str]) -> str:
    if isinstance(item, fx.Node):
        return number[item]
    if isinstance(item, (list, tuple)):
        return "[" + ", ".join(_show(i, number) for i in item) + "]"
    return f"{item:.6g}" if isinstance(item, float) else str(item)


def _flat(item: Any) -> list[Any]:
    if isinstance(item, (list, tuple)):
        return [leaf for part in item for leaf in _flat(part)]
    return [item]
