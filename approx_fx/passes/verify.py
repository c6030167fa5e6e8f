"""What must hold after the pass: a list of rules, each a function that yields what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import fx

from ..errors import PassFailed
from ..joint.fake_values import is_bool, shape, sizes, tensor
from ..joint.op_table import COMPARISONS
from ..joint.ops import name_of
from ..ops import approximates, op_of
from .state import Partition


def topological(done: Partition) -> Iterator[str]:
    """Every node comes behind its inputs."""
    for name, module in (("forward", done.forward), ("backward", done.backward)):
        seen: set[fx.Node] = set()
        for node in module.graph.nodes:
            late = [source.name for source in node.all_input_nodes if source not in seen]
            if late:
                yield f"{name}: {node.name} comes before its input {late[0]}"
            seen.add(node)


def forward_is_exact(done: Partition) -> Iterator[str]:
    """No forward node reads a dequantized value, and no code is read in the forward but to be saved."""
    for node in done.forward.graph.nodes:
        op = op_of(node.target)
        if op is not None and op.kind in ("decode", "mask"):
            yield f"forward: {node.name} dequantizes"


def masks_are_exact(done: Partition) -> Iterator[str]:
    """No comparison in the backward reads a value that is approximate."""
    approximate: set[fx.Node] = set()
    for node in done.backward.graph.nodes:
        inherits = any(source in approximate for source in node.all_input_nodes)
        if inherits and name_of(node) in COMPARISONS and _forward_only(node):
            yield f"backward: the mask {node.name} is computed from an approximate value"
        if approximates(node.target) or (inherits and not is_bool(node)):
            approximate.add(node)


def _forward_only(node: fx.Node) -> bool:
    """Whether the node does not depend on an incoming gradient."""
    stack, seen = list(node.all_input_nodes), set()
    while stack:
        source = stack.pop()
        if source in seen:
            continue
        seen.add(source)
        if source.op == "placeholder" and "tangents" in source.name:
            return False
        stack.extend(source.all_input_nodes)
    return True


def copies_match_originals(done: Partition) -> Iterator[str]:
    """Every copy has the shape, dtype and strides of the value it stands for."""
    for copy, value in done.copies.items():
        mine, theirs = tensor(copy), tensor(value)
        if mine is None or theirs is None:
            continue
        if shape(mine) != shape(theirs) or mine.dtype != theirs.dtype or _strides(mine) != _strides(theirs):
            yield (
                f"backward: {copy.name} is {mine.dtype} {tuple(mine.shape)} {_strides(mine)}, "
                f"{value.name} is {theirs.dtype} {tuple(theirs.shape)} {_strides(theirs)}"
            )


def _strides(value: torch.Tensor) -> tuple[object, ...]:
    """Strides of the dimensions that have more than one element."""
    return tuple(str(stride) for size, stride in zip(sizes(value), value.stride(), strict=True) if size != 1)


RULES: tuple[Callable[[Partition], Iterator[str]], ...] = (
    topological,
    forward_is_exact,
    masks_are_exact,
    copies_match_originals,
)


@dataclass(frozen=True)
class Verify:
    """Behind all other passes."""

    def __call__(self, partition: Partition) -> Partition:
        """Raises PassFailed with the first thing that is wrong."""
        verify(partition)
        return partition


def verify(done: Partition) -> None:
    """Raise PassFailed with the first thing that is wrong."""
    for rule in RULES:
        for problem in rule(done):
            raise PassFailed(f"{rule.__name__}: {problem}")
