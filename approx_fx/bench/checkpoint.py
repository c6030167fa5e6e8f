"""Find the blocks of any model and put torch.utils.checkpoint around each of them.

A block is the outermost module that has at least two weights of two dimensions or more (convolutions, linear layers)
and contains no container of such modules. A model without blocks (VGG, a perceptron) is one sequence of layers; it is
cut into as many segments of equal length as a segment has layers, as in Chen et al. 2016, "Training Deep Nets with
Sublinear Memory".
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
UNCALLABLE = (nn.ModuleList, nn.ModuleDict)
Model = TypeVar("Model", bound=nn.Module)


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of every block, in the order of the model's modules; empty if it has none."""
    blocks_by_name: dict[str, nn.Module] = {}
    _collect(model, "", blocks_by_name, set())
    return blocks_by_name


def segments(model: nn.Sequential) -> list[list[nn.Module]]:
    """The children in order, cut into segments of ceil(sqrt(children)); an in-place layer never starts a segment.

    It would overwrite the segment's input, from which the segment is recomputed.
    """
    children = list(model)
    length = math.ceil(math.sqrt(len(children)))
    runs: list[list[nn.Module]] = []
    for child in children:
        if not runs or (len(runs[-1]) >= length and not _starts_in_place(child)):
            runs.append([])
        runs[-1].append(child)
    return runs


def checkpoint_blocks(model: Model, restore: bool = True) -> Model:
    """Wrap the forward of each block in a checkpoint, in place; return the model.

    The recomputation draws the same random numbers. restore: undo the second update of running statistics in the
    recomputation; needed where the forward runs op by op, while torch.compile drops that update itself.
    """
    around = functools.partial(_checkpointed, restore=restore)
    block_list = list(blocks(model).values())
    if not block_list and isinstance(model, nn.Sequential):
        parts = [around(_chain(part), part) for part in segments(model)]
        model.forward = _chain(parts)  # type: ignore[method-assign,assignment]
        return model
    for block in block_list or [child for child in model.children() if any(True for _ in child.parameters())]:
        if not isinstance(block, UNCALLABLE):
            block.forward = around(block.forward, [block])
    return model


def _collect(module: nn.Module, prefix: str, blocks_by_name: dict[str, nn.Module], visited: set[nn.Module]) -> None:
    for name, child in module.named_children():
        if child in visited:
            continue
        visited.add(child)
        if _holds_blocks(child):
            _collect(child, f"{prefix}{name}.", blocks_by_name, visited)
        elif _weights(child) >= 2 and not isinstance(child, UNCALLABLE):
            blocks_by_name[f"{prefix}{name}"] = child


def _holds_blocks(module: nn.Module) -> bool:
    """Returns True if some container in the module, or the module itself, has a child with at least two weights."""
    return any(
        isinstance(part, CONTAINERS) and any(_weights(child) >= 2 for child in part.children())
        for part in module.modules()
    )


def _weights(module: nn.Module) -> int:
    return sum(parameter.ndim >= 2 for parameter in module.parameters())


def _starts_in_place(module: nn.Module) -> bool:
    first = next((part for part in module.modules() if not isinstance(part, CONTAINERS)), module)
    return bool(getattr(first, "inplace", False))


def _chain(parts: Any) -> Callable[..., Any]:
    def forward(x: Any) -> Any:
        for part in parts:
            x = part(x)
        return x

    return forward


def _checkpointed(forward: Callable[..., Any], owners: list[nn.Module], restore: bool) -> Callable[..., Any]:
    options: dict[str, Any] = {"use_reentrant": False}
    if restore:
        options["context_fn"] = lambda: (contextlib.nullcontext(), _buffers_restored(owners))
    return functools.partial(checkpoint, forward, **options)


@contextlib.contextmanager
def _buffers_restored(owners: list[nn.Module]) -> Iterator[None]:
    """Restore the values of the modules' buffers on exit."""
    buffers = list(itertools.chain.from_iterable(owner.buffers() for owner in owners))
    values_before = [buffer.detach().clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, values_before, strict=True):
                buffer.copy_(value)
