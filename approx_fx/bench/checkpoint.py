"""A model's blocks, found in any model, and torch.utils.checkpoint around each of them.

A block is the outermost repeated piece: it has two weights of two dimensions or more (convolutions, linear layers), and
no row of such pieces inside. A model without blocks (VGG, a perceptron) is one row of layers: it is cut into as many
segments of equal length as a segment has layers, as in Chen et al. 2016, "Training Deep Nets with Sublinear Memory".
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
    """Name -> module of every block, outermost first come; empty where the model has none."""
    found: dict[str, nn.Module] = {}
    _collect(model, "", found, set())
    return found


def segments(model: nn.Sequential) -> list[list[nn.Module]]:
    """The children in order, cut into runs of ceil(sqrt(children)); an in-place layer never starts one.

    An in-place layer would overwrite the segment's input, which is all that is kept for doing the segment again.
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
    """Wrap the forward of each of the model's blocks in place in a checkpoint; returns the model.

    Random numbers are drawn again as they were. restore: put running statistics back that a second forward would update
    a second time; needed where the forward runs op by op, while torch.compile leaves a second update out by itself.
    """
    around = functools.partial(_checkpointed, restore=restore)
    found = list(blocks(model).values())
    if not found and isinstance(model, nn.Sequential):
        parts = [around(_chain(part), part) for part in segments(model)]
        model.forward = _chain(parts)  # type: ignore[method-assign,assignment]
        return model
    for block in found or [child for child in model.children() if any(True for _ in child.parameters())]:
        if not isinstance(block, UNCALLABLE):
            block.forward = around(block.forward, [block])
    return model


def _collect(module: nn.Module, prefix: str, found: dict[str, nn.Module], seen: set[nn.Module]) -> None:
    for name, child in module.named_children():
        if child in seen:
            continue
        seen.add(child)
        if _holds_row(child):
            _collect(child, f"{prefix}{name}.", found, seen)
        elif _weights(child) >= 2 and not isinstance(child, UNCALLABLE):
            found[f"{prefix}{name}"] = child


def _holds_row(module: nn.Module) -> bool:
    """Whether the module is, or has inside, a container of pieces that could be blocks."""
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
        options["context_fn"] = lambda: (contextlib.nullcontext(), _restored(owners))
    return functools.partial(checkpoint, forward, **options)


@contextlib.contextmanager
def _restored(owners: list[nn.Module]) -> Iterator[None]:
    """Leave the buffers as they are found."""
    buffers = list(itertools.chain.from_iterable(owner.buffers() for owner in owners))
    before = [buffer.detach().clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
