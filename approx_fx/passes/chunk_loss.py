"""Puts one node in the place of a loss and its gradient, which computes them for a few rows of the logits at a time.

The gradient is computed in the forward, for an incoming gradient of 1, and multiplied by the incoming one in the
backward: no full copy of the logits, of their softmax or of their gradient exists, and nothing is computed twice.
"""

from __future__ import annotations

import heapq
import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..chunk.region import Declined, Output, Region, products, region_of
from ..chunk.rows import (
    ALONG,
    PRODUCTS,
    REDUCE,
    REGROUP,
    TRANSPOSED,
    WHOLE,
    NotByRows,
    Rows,
    permutation,
    reduced_dims,
    same,
    shape,
)
from ..chunk.run import chunked_rows, sum_dtype
from ..joint.attribution import module_of
from ..joint.fake_values import hint, nbytes, tensor
from ..joint.graph import classify
from ..joint.op_table import name_of
from ..torch_compat.fake_tensors import symbols_in
from .node_builder import ATTRIBUTION, Builder
from .separate_transposes import separate_transposes

aten = torch.ops.aten
# Bytes of a chunk of the product, on a CPU and on a GPU; a chunk has at least so many rows; the most chunks.
CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**26}
LEAST_ROWS = {"cpu": 128, "cuda": 1024}
# Bytes of a weight that stays in a CPU's cache from chunk to chunk, with its gradient: half as many rows are enough.
CACHED_WEIGHT = 2**24
MOST_CHUNKS = 64
# A loss is computed in chunks if that adds at most this share to the FLOPs of the step.
MOST_ADDED_FLOPS = 0.03
# The least if the number of rows varies: there may be more of them than the graph was traced with.
LEAST_VARYING_CHUNKS = 8


def chunk_losses(module: fx.GraphModule, num_fwd_outputs: int, most_added_flops: float = MOST_ADDED_FLOPS) -> list[str]:
    """Compute every region of a simplified joint graph in chunks for which that is possible, in place.

    most_added_flops: the share by which the step's FLOPs may grow.
    Returns a text for each product that is large enough: 'head: in 16 chunks of 128 rows', or why not.
    """
    results: list[str] = []
    _read_sizes_off_inputs(module.graph)
    too_costly = separate_transposes(module, num_fwd_outputs, most_added_flops)
    for product in list(products(module.graph)):
        backward = classify(module, num_fwd_outputs).backward
        if product not in module.graph.nodes or product in backward:  # an earlier region has it
            continue
        try:
            region = region_of(product, backward)
        except (Declined, NotByRows) as error:
            reason = too_costly.get(product, error)
            results.append(f"{module_of(product) or 'a product'}: not in chunks: {reason}")
            continue
        device = "cpu" if product.meta["val"].device.type == "cpu" else "cuda"
        rows, places = region.rows.count, region.rows.places(shape(product), 1)
        is_cached = device == "cpu" and _weight_bytes(product) <= CACHED_WEIGHT
        count = hint(rows)
        sizes: list[Any] = chunk_sizes(count, nbytes(product) // count, device, hint(places), is_cached)
        if isinstance(rows, torch.SymInt):
            sizes = _equal_sizes(rows, max(len(sizes), LEAST_VARYING_CHUNKS))
        chunks = "1 chunk" if len(sizes) == 1 else f"{len(sizes)} chunks"
        in_a_chunk = sizes[0] * places
        _replace(module, region, sizes, len(results))
        of_rows = f" of {in_a_chunk} rows" if isinstance(in_a_chunk, int) else ""
        results.append(f"{module_of(product) or 'a product'}: in {chunks}{of_rows}")
    return results


def _read_sizes_off_inputs(graph: fx.Graph) -> None:
    """Compute symbolic sizes from the graph's inputs, not from a value of that size: logits would be read for it."""
    for node in graph.find_nodes(op="call_function", target=aten.sym_size.int):
        if node.args[0].op != "placeholder":  # type: ignore[union-attr]
            with graph.inserting_before(node):
                node.replace_all_uses_with(Builder.on(graph).size(node.meta["val"]))
            graph.erase_node(node)


def _equal_sizes(rows: torch.SymInt, count: int) -> list[Any]:
    """Rows of each of `count` chunks of a number of rows that varies: the last has what is left over, too.

    With less than twice as many rows as chunks, sizes are 0 or 1, for which torch traces a graph of their own. The
    guard for that has to be the first: others divide by the size, and are not evaluated where it fails.
    """
    size = rows // count
    bool(size > 1)
    return [size] * (count - 1) + [rows - (count - 1) * size]


def _weight_bytes(product: fx.Node) -> int:
    """Bytes of the second factor of a product."""
    factor = [node for node in product.args if isinstance(node, fx.Node)][-1]
    return nbytes(factor)


def chunk_sizes(rows: int, row_bytes: int, device: str = "cpu", places: int = 1, is_cached: bool = False) -> list[int]:
    """Rows of each chunk: equal ones where a divisor is near, otherwise the last is smaller.

    places: rows of the product for each row; is_cached: the weight stays in the cache, half as many rows are enough.
    """
    least = min(rows, math.ceil(LEAST_ROWS[device] / places / (2 if is_cached else 1)))
    wanted = max(least, CHUNK_BYTES[device] // max(row_bytes, 1), math.ceil(rows / MOST_CHUNKS))
    divisors = [size for size in range(max(wanted // 2, 1), min(2 * wanted, rows) + 1) if rows % size == 0]
    size = min(divisors, key=lambda divisor: abs(divisor - wanted), default=wanted)
    whole, rest = divmod(rows, size)
    return [size] * whole + ([rest] if rest else [])


def _replace(module: fx.GraphModule, region: Region, sizes: Sequence[int], index: int) -> None:
    graph = module.graph
    divided = [node for node in region.inputs if region.leading[node] != WHOLE]
    whole = [node for node in region.inputs if region.leading[node] == WHOLE]
    first = next(iter(region.product.users))
    with graph.inserting_before(first):  # the sizes that a chunk's are computed from are inputs of it, too
        build = Builder(graph, Builder.on(graph).mode, False, region.product)
        symbols = [build.size(size) for size in symbols_in(graph)]
    bodies: list[str] = []
    for size in {str(size): size for size in sizes}.values():
        name = f"{'last_' if bodies else ''}chunk_{index}"
        module.add_submodule(name, fx.GraphModule(module, body(region, size, divided, [*whole, *symbols])))
        bodies.append(name)
    with graph.inserting_before(first):
        attributes = [graph.get_attr(name) for name in bodies]
        flat = [_flattened(build, node, region) for node in divided]
        sums = [output.is_sum for output in region.outputs]
        call = graph.call_function(
            chunked_rows, (attributes, [build.size(size) for size in sizes], sums, flat, [*whole, *symbols])
        )
        call.meta["val"] = tuple(_result(build, output) for output in region.outputs)
        call.meta.update({key: region.product.meta[key] for key in ATTRIBUTION if key in region.product.meta})
        for position, output in enumerate(region.outputs):
            node = build.call(operator.getitem, call, position)
            if node.meta["val"].dtype != output.node.meta["val"].dtype:
                node = build.call(torch.ops.prims.convert_element_type.default, node, output.node.meta["val"].dtype)
            outside = [user for user in output.node.users if user not in region.nodes]
            if not output.is_sum and not same(shape(output.node), shape(node)):
                node = build.call(aten.reshape.default, node, list(output.node.meta["val"].shape))
            if output.degree:
                scaled = Builder(graph, build.mode, False, output.node)
                node = scaled.call(aten.mul.Tensor, node, region.tangent)
            for user in outside:
                user.replace_input_with(output.node, node)
    _sort(graph)
    graph.eliminate_dead_code()
    graph.lint()


def _flattened(build: Builder, node: fx.Node, region: Region) -> fx.Node:
    """A value whose leading dimensions are one."""
    leading, sizes = region.leading[node], node.meta["val"].shape
    if leading == 1:
        return node
    return build.call(aten.reshape.default, node, [math.prod(sizes[:leading]), *sizes[leading:]])


def _result(build: Builder, output: Output) -> torch.Tensor:
    """The fake value of an output as `chunked_rows` returns it."""
    fake = output.node.meta["val"]
    dtype = sum_dtype(fake.dtype) if output.is_sum else fake.dtype
    with build.mode:
        return torch.empty(
            fake.shape if output.is_sum else [math.prod(fake.shape[: output.leading]), *fake.shape[output.leading :]],
            dtype=dtype,
            device=fake.device,
        )


def body(region: Region, size: Any, divided: Sequence[fx.Node], whole: Sequence[fx.Node]) -> fx.Graph:
    """The region's graph for a chunk of `size` rows: (chunks of `divided`, `whole`) -> outputs.

    size: a number or a symbolic size, which the graph computes from those among `whole`.
    """
    graph = fx.Graph()
    build = Builder(graph, Builder.on(region.product.graph).mode)
    copies: dict[fx.Node, Any] = {}
    for node in (*divided, *whole):
        copies[node] = graph.placeholder(node.name)
        fake = copies[node].meta["val"] = node.meta["val"]
        if node in divided:
            with build.mode:
                sizes = _chunk_shape(node, region.leading[node], size, region.rows)
                copies[node].meta["val"] = torch.empty(sizes, dtype=fake.dtype, device=fake.device)
    if region.tangent is not None:
        fake = region.tangent.meta["val"]
        copies[region.tangent] = build.call(
            aten.full.default, list(fake.shape), 1, dtype=fake.dtype, device=fake.device
        )
    for node in region.nodes:
        build.origin = node
        copies[node] = _copy(build, node, region, copies, size)
    graph.output(tuple(copies[output.node] for output in region.outputs))
    graph.eliminate_dead_code()
    return graph


def _chunk_shape(node: fx.Node, leading: int, size: Any, rows: Rows) -> tuple[Any, ...]:
    """The shape of a value in a chunk of `size` rows."""
    fake, sizes = node.meta["val"], shape(node)
    if leading == WHOLE:
        return tuple(fake.shape)
    places = rows.places(sizes[1:], 1) if leading == TRANSPOSED else rows.places(sizes, leading)
    return (fake.shape[0], size * places) if leading == TRANSPOSED else (size * places, *fake.shape[leading:])


def _copied(argument: Any, copies: dict[fx.Node, Any]) -> Any:
    """An argument for a chunk. A node that is a symbolic size is replaced by the size, of which `Builder` makes one."""
    return fx.map_arg(argument, lambda node: copies[node] if node in copies else node.meta["val"])


def _copy(build: Builder, node: fx.Node, region: Region, copies: dict[fx.Node, Any], size: Any) -> fx.Node:
    """The node for a chunk."""
    name = name_of(node)
    leading = region.leading.get(node)
    if leading is None:
        return _sum(build, node, region, copies)
    sizes = list(_chunk_shape(node, leading, size, region.rows))
    removed = max(leading - 1, 0)
    args: list[Any] = [_copied(arg, copies) for arg in node.args]
    kwargs = _copied(node.kwargs, copies)
    if name in REGROUP:
        with build.mode:
            value = args[0].meta["val"].new_empty(sizes)
        return build.call_of(value, aten.reshape.default, args[0], sizes)
    if name == "expand":
        return build.call(aten.expand.default, _without_rows(build, args[0], len(sizes), leading), sizes)
    if name == "full":
        return build.call(aten.full.default, sizes, *args[1:], **kwargs)
    if name in REDUCE:
        dims = [dim - removed for dim in reduced_dims(node)]
        if len(node.args) > 1:  # else it has no rows, and all dimensions are reduced
            args[1] = dims[0] if isinstance(node.args[1], int) else dims
    elif name in ALONG:
        args[ALONG[name]] = args[ALONG[name]] % len(shape(node.all_input_nodes[0])) - removed
    elif name == "permute" and leading > 1:
        args[1] = [0, *(dim - removed for dim in permutation(node)[leading:])]
    elif name not in PRODUCTS | {"permute", "constant_pad_nd"}:
        args = [_without_rows(build, arg, len(sizes), leading) if _is_tensor(arg) else arg for arg in args]
    return build.call(node.target, *args, **kwargs)  # type: ignore[arg-type]


def _is_tensor(argument: Any) -> bool:
    return isinstance(argument, fx.Node) and tensor(argument) is not None


def _without_rows(build: Builder, operand: fx.Node, ndim: int, leading: int) -> fx.Node:
    """An operand that is broadcast along all rows, without the dimensions of length 1 that stood for them."""
    sizes = operand.meta["val"].shape
    surplus = len(sizes) - ndim if leading else 0
    return build.call(aten.reshape.default, operand, list(sizes[surplus:])) if surplus > 0 else operand


def _sum(build: Builder, node: fx.Node, region: Region, copies: dict[fx.Node, Any]) -> fx.Node:
    """A sum over the rows of a chunk, in the shape of the sum over all; of a mean, the chunk's share."""
    args: list[Any] = [_copied(arg, copies) for arg in node.args]
    if name_of(node) == "mm":
        return build.call(aten.mm.default, *args)
    source = node.all_input_nodes[0]
    removed = region.leading[source] - 1
    dims = sorted({max(dim - removed, 0) for dim in reduced_dims(node)})
    dtype = sum_dtype(node.meta["val"].dtype)
    total = build.call(aten.sum.dim_IntList, args[0], dims, False, dtype=dtype)
    if name_of(node) == "mean":
        count = math.prod(shape(source)) // math.prod(shape(node))
        total = build.call(aten.div.Tensor, total, count)
    is_in_shape = same(shape(total), shape(node))
    return total if is_in_shape else build.call(aten.reshape.default, total, list(node.meta["val"].shape))


def _sort(graph: fx.Graph) -> None:
    """Put every node behind its inputs, otherwise in the order in which they are."""
    nodes = list(graph.nodes)
    order = {node: index for index, node in enumerate(nodes)}
    waiting = {node: len(node.all_input_nodes) for node in nodes}
    ready = [index for index, node in enumerate(nodes) if not waiting[node]]
    for _ in nodes:
        node = nodes[heapq.heappop(ready)]
        next(iter(reversed(graph.nodes))).append(node)  # torch 2.11 gives no iterator
        for user in node.users:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, order[user])
