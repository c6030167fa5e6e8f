"""Writes the chunks of a loss one after the other into the forward half: ordinary ops, which a compiler fuses.

All chunks of the logits are written to the same memory, which also keeps the chunks in their order, and the sums over
the rows, such as the gradient of the head's weight, are added to in place.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ..chunk.run import chunked_rows
from ..joint.op_table import name_of
from ..ops import into  # noqa: F401
from .node_builder import Builder
from .state import Partition

aten = torch.ops.aten
PRODUCT_READERS = frozenset(["mm", "addmm", "permute"])


@dataclass(frozen=True)
class UnrollChunks:
    """Pass: replace every call of `chunked_rows` in the forward half by its chunks."""

    def __call__(self, partition: Partition) -> Partition:
        """Unroll; the dead code that is left is dropped."""
        forward = partition.forward
        calls = forward.graph.find_nodes(op="call_function", target=chunked_rows)
        for call in calls:
            with forward.graph.inserting_before(call):
                results = _Chunks(forward, call, Builder(forward.graph, Builder.on(forward.graph).mode)).unroll()
            for item in list(call.users):
                item.replace_all_uses_with(results[item.args[1]])  # type: ignore[index]
                forward.graph.erase_node(item)
            forward.graph.erase_node(call)
        if calls:
            forward.graph.eliminate_dead_code()
            forward.recompile()
        return partition


@dataclass
class _Chunks:
    """memory: node of a body -> the buffer that all chunks write it to: the first product, sums, rows of a product."""

    forward: fx.GraphModule
    call: fx.Node
    build: Builder
    memory: dict[str, fx.Node] = field(default_factory=dict)

    def unroll(self) -> list[fx.Node]:
        """The outputs' nodes, in the place of the call."""
        attributes, sizes, sums, divided, whole = self.call.args
        bodies = [getattr(self.forward, node.target).graph for node in attributes]  # type: ignore[union-attr,arg-type,union-attr]
        by_size = dict(zip(dict.fromkeys(sizes), bodies, strict=True))  # type: ignore[arg-type]
        results: list[list[fx.Node]] = [[] for _ in sums]  # type: ignore[union-attr]
        start = 0
        for size in sizes:  # type: ignore[union-attr]
            places = by_size[size].find_nodes(op="placeholder")
            chunks = self._rows(divided, places[: len(divided)], start)  # type: ignore[arg-type]
            outputs = self._chunk(by_size[size], [*chunks, *whole], sums, start)  # type: ignore[misc,arg-type]
            for result, output in zip(results, outputs, strict=True):
                result.append(output)
            start += size  # type: ignore[operator]
        return [self._joined(result, bool(is_sum), index) for index, (result, is_sum) in enumerate(zip(results, sums, strict=True))]  # type: ignore[arg-type]

    def _rows(self, values: Sequence[fx.Node], places: Sequence[fx.Node], start: int) -> list[fx.Node]:
        """The rows of one chunk: views for products; others are copied, so that the loops of all chunks are the same."""
        copied = [place for place in places if not all(name_of(user) in PRODUCT_READERS for user in place.users)]
        memory = {}
        for place in copied:
            fake = place.meta["val"]
            memory[place] = self._memory(f"{place.name} of {fake.shape[0]}", fake, fake.shape, fake.dtype)
        if copied:
            sources = [value for value, place in zip(values, places, strict=True) if place in memory]
            self.build.call(torch.ops.approx_fx.copy_rows_into.default, list(memory.values()), sources, start)
        return [
            memory[place]
            if place in memory
            else self.build.call(aten.slice.Tensor, value, 0, start, start + place.meta["val"].shape[0])
            for value, place in zip(values, places, strict=True)
        ]

    def _memory(self, key: str, like: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> fx.Node:
        if key not in self.memory:
            self.memory[key] = self.build.call(aten.empty.memory_format, list(shape), dtype=dtype, device=like.device)
        return self.memory[key]

    def _chunk(self, body: fx.Graph, inputs: Sequence[fx.Node], sums: Sequence[bool], start: int) -> list[fx.Node]:
        """The outputs of one chunk; those that are written to memory are that memory."""
        copies: dict[fx.Node, Any] = dict(zip(body.find_nodes(op="placeholder"), inputs, strict=True))
        outputs: Any = next(iter(body.find_nodes(op="output"))).args[0]
        first = next(node for node in body.nodes if name_of(node) in ("mm", "addmm"))
        for node in body.nodes:
            if node.op != "call_function":
                continue
            self.build.origin = node
            args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), copies.__getitem__)
            if node is first:
                rows = node.meta["val"].shape[0]
                product = self._product(f"first of {rows}", node, args[-2:], 0, rows, False)
                copies[node] = self.build.call(aten.add.Tensor, product, args[0]) if len(args) == 3 else product
            elif name_of(node) == "mm" and node in outputs and not node.users.keys() - {next(iter(body.find_nodes(op="output")))}:
                index = outputs.index(node)
                rows = node.meta["val"].shape[0] if sums[index] else self.call.meta["val"][index].shape[0]
                at = 0 if sums[index] else start
                copies[node] = self._product(f"output {index}", node, args, at, rows, bool(sums[index] and start))
            else:
                copies[node] = self.build.call(node.target, *args, **kwargs)  # type: ignore[arg-type]
                if _replaces(node, first):
                    memory = self.memory[f"first of {node.meta['val'].shape[0]}"]
                    self.build.call(torch.ops.approx_fx.store_into.default, memory, copies[node])
                    copies[node] = memory
        return [copies[output] for output in outputs]

    def _product(self, key: str, node: fx.Node, args: Any, start: int, rows: int, add: bool) -> fx.Node:
        """The memory [rows, m] to which a product is written, or added."""
        fake = node.meta["val"]
        is_sum = fake.dtype.itemsize < 4 and not key.startswith("first")
        memory = self._memory(key, fake, (rows, fake.shape[1]), torch.float32 if is_sum else fake.dtype)
        self.build.call(torch.ops.approx_fx.matmul_into.default, memory, *args, start, add)
        return memory

    def _joined(self, results: list[fx.Node], is_sum: bool, index: int) -> fx.Node:
        dtype = self.call.meta["val"][index].dtype
        if f"output {index}" in self.memory:
            total = self.memory[f"output {index}"]
        elif not is_sum:
            total = self.build.call(aten.cat.default, results)
        else:
            total = results[0]
            for result in results[1:]:
                total = self.build.call(aten.add.Tensor, total, result)
        if total.meta["val"].dtype != dtype:
            total = self.build.call(torch.ops.prims.convert_element_type.default, total, dtype)
        return total


def _replaces(node: fx.Node, first: fx.Node) -> bool:
    """Whether a value is written to the memory of the first product: its gradient, which products read."""
    fake, product = node.meta["val"], first.meta["val"]
    readers = [user for reader in node.users for user in (reader.users if name_of(reader) == "permute" else [reader])]
    return (
        fake.shape == product.shape
        and fake.dtype == product.dtype
        and name_of(node) != "permute"
        and all(name_of(reader) == "mm" for reader in readers)
    )
