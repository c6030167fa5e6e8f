"""Writes the chunks of a loss one after the other into the forward half: ordinary ops, which a compiler fuses.

All chunks of the logits are written to the same memory, which also keeps the chunks in their order, and sums over the
rows, such as the gradient of the head's weight, are added to in place. What else a chunk reads of its rows is copied to
memory of its own, so that all chunks run the same compiled loops.

A gradient that loops read too, as that of a head with a bias, replaces the logits in their memory: a compiler would
delay these loops, and keep the gradients of all chunks for them. Products alone are never delayed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ..chunk.rows import PRODUCTS
from ..chunk.run import chunked_rows
from ..joint.fake_values import is_size, shape, tensor
from ..joint.op_table import name_of, traits
from ..ops.into import COPY_ROWS_INTO, MATMUL_INTO, STORE_INTO, STORE_ROWS_INTO
from .node_builder import Builder
from .state import Partition

aten = torch.ops.aten
EMPTY = aten.empty.memory_format


@dataclass(frozen=True)
class UnrollChunks:
    """Pass: replace every call of `chunked_rows` in the forward half by its chunks."""

    def __call__(self, partition: Partition) -> Partition:
        """Unroll; the dead code that is left is dropped."""
        forward = partition.forward
        calls = forward.graph.find_nodes(op="call_function", target=chunked_rows)
        for call in calls:
            build = Builder.on(forward.graph)
            with forward.graph.inserting_before(call):
                results = _Unrolled(forward, call, build).outputs()
            for item in list(call.users):
                name, result = item.name, results[item.args[1]]  # type: ignore[index]
                item.replace_all_uses_with(result)
                forward.graph.erase_node(item)
                result.name = name  # by which the backward reads what is saved
            forward.graph.erase_node(call)
        if calls:
            forward.graph.eliminate_dead_code()
            forward.recompile()
        return partition


@dataclass
class _Unrolled:
    """One call of `chunked_rows`. memory: what is written in all chunks, by a name -> the node that allocates it."""

    forward: fx.GraphModule
    call: fx.Node
    build: Builder
    memory: dict[str, fx.Node] = field(default_factory=dict)

    def outputs(self) -> list[fx.Node]:
        """Write all chunks; return the nodes of the call's outputs."""
        arguments: Any = self.call.args
        attributes, numbers, sums, divided, whole = arguments
        bodies = [getattr(self.forward, attribute.target).graph for attribute in attributes]
        sizes = [size.meta["val"] if isinstance(size, fx.Node) else size for size in numbers]
        starts = list(itertools.accumulate(sizes, initial=0))[:-1]
        chunks = [
            _Chunk(self, bodies[-1 if number == len(sizes) else 0], start, sum(sizes), number == 1, sums).write(
                divided, whole
            )
            for number, start in enumerate(starts, 1)
        ]
        return [self._joined(index, parts) for index, parts in enumerate(zip(*chunks, strict=True))]

    def allocate(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> fx.Node:
        """Memory that all chunks share by this name."""
        if name not in self.memory:
            device = self.call.meta["val"][0].device
            self.memory[name] = self.build.call(EMPTY, list(shape), dtype=dtype, device=device)
        return self.memory[name]

    def _joined(self, index: int, parts: Sequence[fx.Node]) -> fx.Node:
        """An output, from that of each chunk, which is the same memory in all if a product is written to it."""
        if f"output {index}" in self.memory:
            return parts[0]
        total = parts[0]
        for part in parts[1:]:
            total = self.build.call(aten.add.Tensor, total, part)
        return total


@dataclass
class _Chunk:
    """One chunk. body: its graph; start: its first of `count` rows, both maybe symbolic; is_first: the first chunk;
    sums: whether an output is a sum over all rows."""

    unrolled: _Unrolled
    body: fx.Graph
    start: Any
    count: Any
    is_first: bool
    sums: Sequence[bool]

    def write(self, divided: Sequence[fx.Node], whole: Sequence[fx.Node]) -> list[fx.Node]:
        """Write the chunk's nodes; return those of its outputs. divided, whole: see `chunked_rows`.

        The gradient is written over the first product behind all that reads that: a compiler reads memory where an
        elementwise value is used, not where it stands.
        """
        build = self.unrolled.build
        places = self.body.find_nodes(op="placeholder")
        inputs = [*self._rows(divided, places[: len(divided)]), *whole]
        copies: dict[fx.Node, Any] = dict(zip(places, inputs, strict=True))
        end = next(iter(self.body.find_nodes(op="output")))
        outputs: Any = end.args[0]
        first = next(node for node in self.body.nodes if name_of(node) in PRODUCTS)
        gradient = _gradient_of(first)
        behind = set() if gradient is None else _behind(gradient)
        results: dict[int, fx.Node] = {}
        nodes = [node for node in self.body.nodes if node.op == "call_function"]
        for node in [*(node for node in nodes if node not in behind), end, *(node for node in nodes if node in behind)]:
            build.origin = node
            if node is end:
                ready = [index for index, output in enumerate(outputs) if output not in behind]
                results.update((index, self._stored(index, copies[outputs[index]])) for index in ready)
                if gradient is not None:
                    build.origin = gradient
                    build.call(STORE_INTO, self._first(first), copies[gradient])
                    copies[gradient] = self._first(first)
                continue
            if is_size(node):
                copies[node] = build.size(node.meta["val"])
                continue
            args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), copies.__getitem__)
            if node is first:
                product = self._first(node)
                build.call(MATMUL_INTO, product, *args[-2:], 0, False)
                copies[node] = build.call(aten.add.Tensor, product, args[0]) if len(args) == 3 else product
            elif name_of(node) == "mm" and set(node.users) == {end}:
                copies[node] = self._output(node, outputs.index(node), args)
            else:
                copies[node] = build.call_of(node.meta["val"], node.target, *args, **kwargs)  # type: ignore[arg-type]
        results.update(
            (index, self._stored(index, copies[output])) for index, output in enumerate(outputs) if output in behind
        )
        return [results[index] for index in range(len(outputs))]

    def _stored(self, index: int, value: fx.Node) -> fx.Node:
        """A sum, or what is stored already; any other value, which may be a view of the chunk's memory, in its rows."""
        if self.sums[index] or value is self.unrolled.memory.get(f"output {index}"):
            return value
        out = self._whole(index)
        start = self.start * out.meta["val"].shape[0] // self.count
        self.unrolled.build.call(STORE_ROWS_INTO, out, value, start)
        return out

    def _whole(self, index: int) -> fx.Node:
        """The memory of a whole output."""
        fake = self.unrolled.call.meta["val"][index]
        return self.unrolled.allocate(f"output {index}", fake.shape, fake.dtype)

    def _rows(self, values: Sequence[fx.Node], places: Sequence[fx.Node]) -> list[fx.Node]:
        """The rows of the chunk: views where products read them, else copies."""
        build, rows = self.unrolled.build, {}
        for value, place in zip(values, places, strict=True):
            fake = place.meta["val"]
            if all(name_of(user) in PRODUCTS | {"permute"} for user in place.users):
                first = self.start * value.meta["val"].shape[0] // self.count
                rows[place] = build.call(aten.slice.Tensor, value, 0, first, first + fake.shape[0])
            else:
                rows[place] = self.unrolled.allocate(f"{place.name} {fake.shape[0]}", fake.shape, fake.dtype)
        copied = [
            (rows[place], value) for value, place in zip(values, places, strict=True) if rows[place].target is EMPTY
        ]
        if copied:
            copies, sources = zip(*copied, strict=True)
            build.call(COPY_ROWS_INTO, list(copies), list(sources), self.start, self.count)
        return list(rows.values())

    def _first(self, node: fx.Node) -> fx.Node:
        """The memory of the first product."""
        fake = node.meta["val"]
        return self.unrolled.allocate(f"first product {fake.shape[0]}", fake.shape, fake.dtype)

    def _output(self, node: fx.Node, index: int, args: Sequence[fx.Node]) -> fx.Node:
        """Write an output that is a product to its rows of the whole output, or add it to the sum, which is float32."""
        out, is_sum = self._whole(index), self.sums[index]
        start, add = (0, not self.is_first) if is_sum else (self.start * out.meta["val"].shape[0] // self.count, False)
        self.unrolled.build.call(MATMUL_INTO, out, *args, start, add)
        return out


def _gradient_of(first: fx.Node) -> fx.Node | None:
    """The value that is written to the memory of the first product: its gradient, which products and sums read.

    None if there is no such value behind all that reads the product, and if only products read it.
    """
    nodes = list(first.graph.nodes)
    order = {node: index for index, node in enumerate(nodes)}
    last = max((order[reader] for reader in _readers(first)), default=len(nodes))
    product = first.meta["val"]
    for node in reversed(nodes[last:]):
        fake = tensor(node)
        if node.op != "call_function" or fake is None or shape(fake) != shape(product) or fake.dtype != product.dtype:
            continue
        readers = {name_of(reader) for reader in _readers(node)}
        if not traits(node).view and readers <= {"mm", "sum"}:
            if "sum" not in readers:
                return None
            behind, of_product = _behind(node), _behind(first) | {first}
            others = {source for reader in behind for source in reader.all_input_nodes} - behind - {node}
            return None if others & of_product else node
    return None


def _behind(value: fx.Node) -> set[fx.Node]:
    """The nodes that depend on a value, but for the output."""
    behind: set[fx.Node] = set()
    stack = [value]
    while stack:
        for user in stack.pop().users:
            if user not in behind and user.op != "output":
                behind.add(user)
                stack.append(user)
    return behind


def _readers(value: fx.Node) -> list[fx.Node]:
    """The nodes that read a value's memory, also through views, which are among them only if nothing reads them."""
    readers: list[fx.Node] = []
    for user in value.users:
        readers += (_readers(user) if traits(user).view else []) or [user]
    return readers
