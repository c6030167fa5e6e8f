"""Computes the transpose of a product as a product of its own, for losses of rows and of columns.

A contrastive loss reads S = a b row by row and column by column. With S^T = b^T a^T computed by itself, its columns are
rows, too, and each part of the loss is computed row by row of its own product. The gradient of S is G + H^T, with H
that of S^T; what the backward computes of the sum is linear, and is computed of both: (G + H^T) c = G c + H^T c. That
is one more product in the forward and as many again in the backward, and no value as large as S is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from ..chunk.flops import flops
from ..chunk.region import Declined, products, region_of
from ..chunk.rows import NotByRows, permutation
from ..joint.fake_values import shape, tensor
from ..joint.graph import classify
from ..joint.op_table import name_of
from ..torch_compat.lazy_graph_module import copy_graph_module
from .node_builder import Builder

aten = torch.ops.aten


def separate_transposes(module: fx.GraphModule, num_fwd_outputs: int, most_added_flops: float) -> dict[fx.Node, str]:
    """Separate the transpose of every large product that can be computed in chunks then, but not as it is, in place.

    most_added_flops: the share by which the graph's FLOPs may grow for a product.
    Returns product -> why it is left as it is, for those whose transpose would cost too much.
    """
    too_costly = {}
    for product in list(products(module.graph)):
        if _transposes_of(product) and not _can_be_chunked(module, num_fwd_outputs, [product.name]):
            trial = copy_graph_module(module)
            second = _separate(_named(trial.graph, product.name))
            if second is not None and _can_be_chunked(trial, num_fwd_outputs, [product.name, second.name]):
                added = flops(trial.graph) / max(flops(module.graph), 1) - 1
                if added <= most_added_flops:
                    _separate(product)
                else:
                    too_costly[product] = (
                        f"with its transpose computed by itself the step would take {added:.0%} more FLOPs, more than "
                        f"{most_added_flops:.0%}"
                    )
    return too_costly


def _named(graph: fx.Graph, name: str) -> fx.Node:
    return next(node for node in graph.nodes if node.name == name)


def _can_be_chunked(module: fx.GraphModule, num_fwd_outputs: int, names: list[str]) -> bool:
    backward = classify(module, num_fwd_outputs).backward
    try:
        for name in names:
            region_of(_named(module.graph, name), backward)
    except (Declined, NotByRows):
        return False
    return True


def _separate(product: fx.Node) -> fx.Node | None:
    """Compute a product's transpose by itself, and what is read of its gradient; returns the transpose.

    None, with the graph left half changed, where its gradient is not read linearly.
    """
    chain, readers = _scaled(product), _transposes_of(product)
    graph, transposes = product.graph, dict[fx.Node, fx.Node]()
    build = Builder(graph, Builder.on(graph).mode, origin=product)
    with graph.inserting_before(product.next):
        factors: Any = product.args[::-1]
        transposes[product] = build.call(aten.mm.default, *(_transpose(build, factor) for factor in factors))
    for node in chain[1:]:
        with graph.inserting_before(node.next):
            transposes[node] = _with_operands(build, node, transposes)
    for reader in readers:
        reader.replace_all_uses_with(transposes[reader.args[0]])  # type: ignore[index]
    for node in list(graph.nodes):
        parts = _parts(node, product)
        if parts is not None and not _read_apart(node, parts, transposes):
            return None
    graph.eliminate_dead_code()
    return transposes[product]


def _scaled(product: fx.Node) -> list[fx.Node]:
    """The product, and what is computed of it by casts and by factors that are the same for all its elements."""
    chain = [product]
    for node in chain:
        chain += [user for user in node.users if _scales(user, node) and user not in chain]
    return chain


def _transposes_of(product: fx.Node) -> list[fx.Node]:
    """The transposes of a product of matrices, or of what is computed of it by `_scaled`."""
    if name_of(product) != "mm":
        return []
    return [user for node in _scaled(product) for user in node.users if _is_transpose(user)]


def _scales(node: fx.Node, operand: fx.Node) -> bool:
    """Return True if the node casts `operand`, negates it, or multiplies or divides it by a single number."""
    if name_of(node) not in ("mul", "div", "neg", "convert_element_type") or node.args[0] is not operand:
        return name_of(node) == "mul" and node.args[1] is operand and _is_one_number(node.args[0])
    return all(_is_one_number(other) for other in node.args[1:])


def _is_one_number(argument: Any) -> bool:
    """Return True for a number and for a tensor without dimensions."""
    fake = tensor(argument) if isinstance(argument, fx.Node) else None
    return not isinstance(argument, fx.Node) or (fake is not None and fake.ndim == 0)


def _is_transpose(node: fx.Node) -> bool:
    return name_of(node) == "permute" and permutation(node) == [1, 0]


def _transpose(build: Builder, node: fx.Node) -> fx.Node:
    """The transpose of a matrix: what it is the transpose of, where it is one."""
    return node.all_input_nodes[0] if _is_transpose(node) else build.call(aten.permute.default, node, [1, 0])


def _with_operands(build: Builder, node: fx.Node, replaced: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """The node's op on other operands."""
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda source: replaced.get(source, source))
    return build.call(node.target, *args, **kwargs)  # type: ignore[arg-type]


def _parts(node: fx.Node, product: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Return the matrices u and w if the node is a sum u + w^T of the product's shape, None otherwise."""
    if name_of(node) != "add" or node.kwargs or shape(node) != shape(product):
        return None
    for straight, transposed in (node.args[:2], node.args[1::-1]):
        if isinstance(straight, fx.Node) and isinstance(transposed, fx.Node) and _is_transpose(transposed):
            return straight, transposed.all_input_nodes[0]
    return None


def _read_apart(total: fx.Node, parts: tuple[fx.Node, fx.Node], transposes: Mapping[fx.Node, fx.Node]) -> bool:
    """Replace each reader of `total`, which is u + w^T, by its results for u and for w^T, added.

    parts: u and w. Returns False, with the graph left half changed, if a reader is not linear in `total`.
    """
    graph, (u, w) = total.graph, parts
    build = Builder(graph, Builder.on(graph).mode, origin=total)
    for user in list(total.users):
        with graph.inserting_before(user):
            build.origin = user
            pair = None
            if _scales(user, total):
                pair = tuple(_with_operands(build, user, {total: part}) for part in (u, w))
            elif _is_transpose(user):
                pair = (w, u)
            elif name_of(user) == "mul" and (product := _other(user, total)) in transposes:
                factors = ((u, product), (w, transposes[product]))
                pair = tuple(build.call(aten.mul.Tensor, part, factor) for part, factor in factors)
            if pair is not None:
                if not _read_apart(user, pair, transposes):  # type: ignore[arg-type]
                    return False
                continue
            results = _linear(build, user, total, u, w)
            if results is None:
                return False
            user.replace_all_uses_with(build.call(aten.add.Tensor, *results))
    return True


def _other(node: fx.Node, operand: fx.Node) -> Any:
    """The other operand of a node with two."""
    return node.args[1] if node.args[0] is operand else node.args[0]


def _linear(build: Builder, user: fx.Node, total: fx.Node, u: fx.Node, w: fx.Node) -> list[fx.Node] | None:
    """Add the node's op on u and the same op on w^T, if it is a product or a full sum; return None for any other op.

    total: the operand u + w^T of `user`, whose result is the sum of the two that are returned.
    """
    if name_of(user) == "sum" and len(user.args) == 1:
        return [_with_operands(build, user, {total: part}) for part in (u, w)]
    if name_of(user) != "mm" or user.args[0] is user.args[1]:
        return None
    of_u = _with_operands(build, user, {total: u})
    if user.args[0] is total:
        return [of_u, build.call(aten.mm.default, _transpose(build, w), user.args[1])]
    of_w = build.call(aten.mm.default, w, _transpose(build, user.args[0]))  # type: ignore[arg-type]
    return [of_u, _transpose(build, of_w)]
