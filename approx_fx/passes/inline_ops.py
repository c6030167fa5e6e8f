"""Replaces our ops with symbolic sizes by their references, traced to aten, so that Inductor can fuse them.

Ops with static sizes are lowered by their references in Inductor itself, see `inductor.lowering`.
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

SMALL = 2**14  # bytes up to which a decoded value may be held across a convolution or matrix product


@dataclass(frozen=True)
class InlineOps:
    """Pass: inline ops with symbolic sizes, or mark ops to run as kernels. lowering: see `Config.lowering`."""

    lowering: str = "fused"

    def __call__(self, partition: Partition) -> Partition:
        """Inline the ops of both halves."""
        inline_ops(partition.forward, self.lowering)
        inline_ops(partition.backward, self.lowering)
        return partition


def _is_static(node: fx.Node) -> bool:
    """Whether the sizes of a node's result and of its inputs are all numbers."""
    values = tree_leaves([item.meta["val"] for item in (node, *node.all_input_nodes)])
    return all(isinstance(v, torch.Tensor) and all(isinstance(size, int) for size in v.shape) for v in values)


def inline_ops(module: fx.GraphModule, lowering: str = "fused") -> None:
    """Inline the traced references of ops with symbolic sizes, in place; with lowering "kernel", mark ops as kernels.

    Equal nodes of inlined references, such as the unpacking of the same codes, are shared. They are not shared across
    a convolution or matrix product, so that no decoded value is held alive there, unless they are as small as SMALL.
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
        if _is_static(node):
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
    """The op and the shapes, strides, dtypes and devices of its arguments, on which the traced graph depends."""

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
    leaves, spec = tree_flatten((node.args, node.kwargs))
    node_indices = [index for index, item in enumerate(leaves) if isinstance(item, fx.Node)]

    def call(*values: Any) -> Any:
        arguments = list(leaves)
        for index, value in zip(node_indices, values, strict=True):
            arguments[index] = value
        args, kwargs = torch.utils._pytree.tree_unflatten(arguments, spec)
        return reference(*args, **kwargs)

    return trace_to_aten(call, [leaves[index].meta["val"] for index in node_indices], mode)


def _splice(
    graph: fx.Graph, node: fx.Node, body: fx.GraphModule, small: dict[Any, fx.Node], large: dict[Any, fx.Node]
) -> Any:
    """Copy the nodes of a traced reference before the node; returns the outputs. small, large: copies to be shared."""
    leaves, _ = tree_flatten((node.args, node.kwargs))
    arguments = iter([item for item in leaves if isinstance(item, fx.Node)])
    env: dict[fx.Node, Any] = {}
    with graph.inserting_before(node):
        for inner in body.graph.nodes:
            if inner.op == "placeholder":
                env[inner] = next(arguments)
            elif inner.op == "output":
                return fx.map_arg(inner.args[0], env.__getitem__)
            else:
                args = fx.map_arg((inner.args, inner.kwargs), env.__getitem__)
                key = (inner.target, repr(args))  # the repr of a node is its name
                shared = small if nbytes(inner) <= SMALL else large
                if key not in shared:
                    shared[key] = graph.node_copy(inner, env.__getitem__)
                    shared[key].meta = {**node.meta, "val": inner.meta["val"]}
                env[inner] = shared[key]
    raise AssertionError("a traced graph ends with an output")
