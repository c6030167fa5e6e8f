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
from ..ops.matmul_into import matmul_into  # noqa: F401
from .node_builder import Builder
from .state import Partition

aten = torch.ops.aten


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
            chunks = [self.build.call(aten.slice.Tensor, value, 0, start, start + size) for value in divided]  # type: ignore[union-attr,operator]
            outputs = self._chunk(by_size[size], [*chunks, *whole], sums, start)  # type: ignore[misc,arg-type]
            for result, output in zip(results, outputs, strict=True):
                result.append(output)
            start += size  # type: ignore[operator]
        return [self._joined(result, bool(is_sum), index) for index, (result, is_sum) in enumerate(zip(results, sums, strict=True))]  # type: ignore[arg-type]

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
                product = self._product("first", node, args[-2:], 0, node.meta["val"].shape[0], False)
                if self.rows_of_first(product) != node.meta["val"].shape[0]:
                    product = self.build.call(aten.slice.Tensor, product, 0, 0, node.meta["val"].shape[0])
                copies[node] = self.build.call(aten.add.Tensor, product, args[0]) if len(args) == 3 else product
            elif name_of(node) == "mm" and node in outputs and not node.users.keys() - {next(iter(body.find_nodes(op="output")))}:
                index = outputs.index(node)
                rows = node.meta["val"].shape[0] if sums[index] else self.call.meta["val"][index].shape[0]
                at = 0 if sums[index] else start
                copies[node] = self._product(f"output {index}", node, args, at, rows, bool(sums[index] and start))
            else:
                copies[node] = self.build.call(node.target, *args, **kwargs)  # type: ignore[arg-type]
        return [copies[output] for output in outputs]

    def rows_of_first(self, product: fx.Node) -> int:
        return int(product.meta["val"].shape[0])

    def _product(self, key: str, node: fx.Node, args: Any, start: int, rows: int, add: bool) -> fx.Node:
        """The memory [rows, m] to which a product is written, or added."""
        fake = node.meta["val"]
        half = fake.dtype.itemsize < 4 and key != "first"
        if key not in self.memory:
            dtype = torch.float32 if half else fake.dtype
            self.memory[key] = self.build.call(aten.empty.memory_format, [rows, fake.shape[1]], dtype=dtype, device=fake.device)
        self.build.call(torch.ops.approx_fx.matmul_into.default, self.memory[key], *args, start, add)
        return self.memory[key]

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
