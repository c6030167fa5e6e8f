"""For Inductor: our ops by their references, so that they fuse with their neighbours.

Where sizes are numbers, Inductor lowers them by their references itself (`host.lowered`). Where one is a symbol, the
references are traced to aten and take the ops' places here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from ..host import fake
from ..host.decompose import trace
from ..joint.ops import HEAVY, name_of
from ..joint.values import nbytes
from ..ops import OPS, reference_of

SMALL = 2**14  # bytes


# Device -> ops whose own kernel was measured to be faster than their reference fused by Inductor. On the CPU an op of
# its own costs passes over memory: none is.
FASTER_ALONE: dict[str, frozenset[str]] = {"cuda": frozenset()}


# As a kernel of their own, they would read and write what their neighbours read and write.
NO_KERNEL = frozenset(["channel_grid", "dequantize_centred"])


def references(lowering: str, device: str) -> dict[OpOverload, Callable[..., Any]]:
    """The ops that Inductor is to lower, with what it lowers them by. lowering: see `Config`; device: its type."""
    if lowering == "kernel":
        return {}
    alone = FASTER_ALONE.get(device, frozenset()) if lowering == "auto" else frozenset()
    return {op.overload: op.reference for name, op in OPS.items() if name not in alone}


def stays(node: fx.Node, lowering: str) -> bool:
    """Whether one of our ops is left to Inductor as it is; what has no kernel never is left as one.

    lowering: see `Config`.
    """
    if lowering != "kernel" and _static(node):
        return True
    if lowering == "fused" or name_of(node) in NO_KERNEL:
        return False
    return lowering == "kernel" or name_of(node) in FASTER_ALONE.get(_device(node), ())


def _static(node: fx.Node) -> bool:
    values = tree_leaves([item.meta["val"] for item in (node, *node.all_input_nodes)])
    return all(isinstance(v, torch.Tensor) and all(isinstance(size, int) for size in v.shape) for v in values)


def _device(node: fx.Node) -> str:
    return next((v.device.type for v in tree_leaves(node.meta["val"]) if isinstance(v, torch.Tensor)), "cpu")


def inline_ops(module: fx.GraphModule, lowering: str = "fused") -> fx.GraphModule:
    """Splice the traced references into the graph, in place, but for ops that `stays` leaves.

    What two neighbours have in common, such as unpacking the same codes, is written once; a convolution or matrix
    product between them parts them, so that no decoded value is held across it. Constants of channels are small enough.
    """
    graph = module.graph
    traced: dict[str, fx.GraphModule] = {}
    small: dict[Any, fx.Node] = {}
    large: dict[Any, fx.Node] = {}
    mode = fake.mode_of(graph)
    for node in list(graph.nodes):
        if name_of(node) in HEAVY:
            large.clear()
        reference = reference_of(node.target) if node.op == "call_function" else None
        if reference is None or stays(node, lowering):
            continue
        key = _key(node)
        if key not in traced:
            traced[key] = _trace(reference, node, mode)
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
    return module


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

    return trace(call, [flat[index].meta["val"] for index in holes], mode)


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
