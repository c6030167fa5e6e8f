"""For Inductor: our ops by their references, so that they fuse with their neighbours.

Where sizes are numbers, Inductor lowers the ops by their references itself (`inductor.lowering`). Where one is a
symbol, the references are traced to aten and take the ops' places here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from ..joint.fake_values import nbytes
from ..joint.op_table import traits
from ..ops import op_of
from ..torch_compat import fake_tensors
from ..torch_compat.decompositions import trace_to_aten
from .state import Partition

SMALL = 2**14  # bytes


@dataclass(frozen=True)
class InlineOps:
    """lowering: see `Config`."""

    lowering: str = "fused"

    def __call__(self, partition: Partition) -> Partition:
        """Splice into both halves."""
        inline_ops(partition.forward, self.lowering)
        inline_ops(partition.backward, self.lowering)
        return partition


def _static(node: fx.Node) -> bool:
    values = tree_leaves([item.meta["val"] for item in (node, *node.all_input_nodes)])
    return all(isinstance(v, torch.Tensor) and all(isinstance(size, int) for size in v.shape) for v in values)


def inline_ops(module: fx.GraphModule, lowering: str = "fused") -> None:
    """Splice the traced references of ops with symbolic sizes into the graph, in place; mark those that run as kernels.

    What two neighbours have in common, such as unpacking the same codes, is written once; a convolution or matrix
    product between them parts them, so that no decoded value is held across it. Constants of channels are small enough.
    """
    graph = module.graph
    traced: dict[str, fx.GraphModule] = {}
    small: dict[Any, fx.Node] = {}
    large: dict[Any, fx.Node] = {}
    mode = fake_tensors.mode_of(graph)
    for node in list(graph.nodes):
        if traits(node).compute_bound:
            large.clear()
        op = op_of(node.target)
        if op is None:
            continue
        if lowering == "kernel" and not op.fused_only:
            node.meta["should_fallback"] = True  # torch's own mark: Inductor does not lower it
            continue
        if _static(node):
            continue
        key = _key(node)
        if key not in traced:
            traced[key] = _trace(op.reference, node, mode)
        outputs = _splice(graph, node, traced[key], small, large)
        if isinstance(outputs, fx.Node):
            node.replace_all_uses_with(outputs)
        else:
            for user in list(node.users):
                user.replace_all_uses_with(outputs[user.args[1]])
                graph.erase_node(user)
        graph.erase_node(node)
    graph.lint()
    module.recompile()


def _key(node: fx.Node) -> str:
    def describe(item: Any) -> Any:
        if not isinstance(item, fx.Node):
            return repr(item)
        value = item.meta["val"]
        if not isinstance(value, torch.Tensor):
            return repr(value)
        return (tuple(map(str, value.shape)), tuple(map(str, value.stride())), value.dtype, value.device)

    return repr((str(node.target), tree_map(describe, (node.args, node.kwargs))))


def _trace(reference: Any, node: fx.Node, mode: Any) -> fx.GraphModule:
    """The reference as a graph of aten ops; its placeholders are the node's node arguments, in order."""
    flat, spec = tree_flatten((node.args, node.kwargs))
    holes = [index for index, item in enumerate(flat) if isinstance(item, fx.Node)]

    def call(*values: Any) -> Any:
        filled = list(flat)
        for index, value in zip(holes, values, strict=True):
            filled[index] = value
        args, kwargs = torch.utils._pytree.tree_unflatten(filled, spec)
        return reference(*args, **kwargs)

    return trace_to_aten(call, [flat[index].meta["val"] for index in holes], mode)


def _splice(
    graph: fx.Graph, node: fx.Node, body: fx.GraphModule, small: dict[Any, fx.Node], large: dict[Any, fx.Node]
) -> Any:
    flat, _ = tree_flatten((node.args, node.kwargs))
    arguments = iter([item for item in flat if isinstance(item, fx.Node)])
    env: dict[fx.Node, Any] = {}
    with graph.inserting_before(node):
        for inner in body.graph.nodes:
            if inner.op == "placeholder":
                env[inner] = next(arguments)
            elif inner.op == "output":
                return fx.map_arg(inner.args[0], env.__getitem__)
            else:
                args = fx.map_arg((inner.args, inner.kwargs), env.__getitem__)
                same = (inner.target, repr(args))  # a node's text is its name
                shared = small if nbytes(inner) <= SMALL else large
                if same not in shared:
                    shared[same] = graph.node_copy(inner, env.__getitem__)
                    shared[same].meta = {**node.meta, "val": inner.meta["val"]}
                env[inner] = shared[same]
    raise AssertionError("a traced graph ends with an output")
