"""Verifies a partition by a list of rules, each a function that yields a sentence for every violation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import fx

from ..errors import PassFailed
from ..joint.fake_values import is_bool, shape, sizes, strides, tensor
from ..joint.op_table import COMPARISONS, name_of
from ..ops import approximates, op_of
from .state import Partition


def topological(partition: Partition) -> Iterator[str]:
    """Every node comes behind its inputs."""
    for name, module in (("forward", partition.forward), ("backward", partition.backward)):
        earlier: set[fx.Node] = set()
        for node in module.graph.nodes:
            late = [source.name for source in node.all_input_nodes if source not in earlier]
            if late:
                yield f"{name}: {node.name} comes before its input {late[0]}"
            earlier.add(node)


def forward_is_exact(partition: Partition) -> Iterator[str]:
    """No node of the forward decodes a value or a mask."""
    for node in partition.forward.graph.nodes:
        op = op_of(node.target)
        if op is not None and op.kind in ("decode", "mask"):
            yield f"forward: {node.name} dequantizes"


def masks_are_exact(partition: Partition) -> Iterator[str]:
    """No comparison in the backward that is a function of forward values alone reads an approximate value."""
    approximate: set[fx.Node] = set()
    for node in partition.backward.graph.nodes:
        inherits = any(source in approximate for source in node.all_input_nodes)
        if inherits and name_of(node) in COMPARISONS and _forward_only(node):
            yield f"backward: the mask {node.name} is computed from an approximate value"
        if approximates(node.target) or (inherits and not is_bool(node)):
            approximate.add(node)


def _forward_only(node: fx.Node) -> bool:
    """Whether the node does not depend on an incoming gradient."""
    stack, visited = list(node.all_input_nodes), set()
    while stack:
        source = stack.pop()
        if source in visited:
            continue
        visited.add(source)
        if source.op == "placeholder" and "tangents" in source.name:
            return False
        stack.extend(source.all_input_nodes)
    return True


def copies_match_originals(partition: Partition) -> Iterator[str]:
    """Every copy has the shape, dtype and strides of the value that it stands for."""
    for copy, original in partition.copies.items():
        new, old = tensor(copy), tensor(original)
        if new is None or old is None:
            continue
        if shape(new) != shape(old) or new.dtype != old.dtype or _strides(new) != _strides(old):
            yield (
                f"backward: {copy.name} is {new.dtype} {tuple(new.shape)} {_strides(new)}, "
                f"{original.name} is {old.dtype} {tuple(old.shape)} {_strides(old)}"
            )


def _strides(value: torch.Tensor) -> tuple[object, ...]:
    """Strides of the dimensions that have more than one element; symbolic ones as numbers.

    Equal strides may be different expressions: of max(s // 2, 1) and of s // 2, for an s that is at least 2.
    """
    return tuple(stride for size, stride in zip(sizes(value), strides(value), strict=True) if size != 1)


RULES: tuple[Callable[[Partition], Iterator[str]], ...] = (
    topological,
    forward_is_exact,
    masks_are_exact,
    copies_match_originals,
)


@dataclass(frozen=True)
class Verify:
    """Pass, the last before lowering: check all RULES."""

    def __call__(self, partition: Partition) -> Partition:
        """The partition, unchanged. Raises PassFailed with the first violation."""
        verify(partition)
        return partition


def verify(partition: Partition) -> None:
    """Check all RULES; raises PassFailed with the first violation."""
    for rule in RULES:
        for problem in rule(partition):
            raise PassFailed(f"{rule.__name__}: {problem}")
