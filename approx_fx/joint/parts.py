"""Parts of a value along its last dimension: what was concatenated to it, or the slices by which it is read.

Parts differ in scale: the gates of a recurrent layer, query, key and value of one product. A tile of a code should lie
in one of them.
"""

from __future__ import annotations

import math
from types import NoneType
from typing import Any

import torch
from torch import fx

from .fake_values import tensor
from .op_table import name_of

aten = torch.ops.aten
# Scales of shorter tiles cost more bytes than an even error is worth.
SHORTEST = 32


def part_length(value: fx.Node) -> int | None:
    """The greatest length that divides the bounds of all parts along the value's last dimension.

    None without parts, or where that length is below `SHORTEST`.
    """
    fake = tensor(value)
    if fake is None or fake.ndim < 2 or not isinstance(fake.shape[-1], int):
        return None
    last = fake.ndim - 1
    bounds = _bounds_of_inputs(value, last) or _bounds_of_slices(value, last)
    length = math.gcd(int(fake.shape[-1]), *bounds)
    return length if bounds and SHORTEST <= length < fake.shape[-1] else None


def _bounds_of_inputs(value: fx.Node, last: int) -> list[int]:
    """The lengths of a concatenation's inputs; empty if one is symbolic or the value is none along that dimension."""
    if value.target is not aten.cat.default:
        return []
    dim = value.args[1] if len(value.args) > 1 else value.kwargs.get("dim", 0)
    fakes = [tensor(part) for part in value.args[0]]  # type: ignore[union-attr,arg-type]
    lengths = [fake.shape[-1] for fake in fakes if fake is not None]
    along_last = dim in (last, -1) and all(isinstance(length, int) for length in lengths)
    return [int(length) for length in lengths] if along_last else []


def _bounds_of_slices(value: fx.Node, last: int) -> list[int]:
    """Starts and ends of the slices by which the value is read; empty if it is read in another way, too."""
    bounds: list[int] = []
    length = int(tensor(value).shape[-1])  # type: ignore[union-attr]
    for user in value.users:
        if name_of(user) in ("split", "split_with_sizes"):
            lengths, dim = user.args[1], (*user.args, 0)[2]
            parts = lengths if isinstance(lengths, (list, tuple)) else [lengths]
            if dim not in (last, -1) or not all(isinstance(length, int) for length in parts):
                return []
            bounds += parts  # type: ignore[arg-type]
        elif user.target is aten.slice.Tensor:
            given: list[Any] = list(user.args[1:4])
            dim, start, end = given + [0, None, None][len(given) :]
            if dim not in (last, -1) or not all(isinstance(bound, (int, NoneType)) for bound in (start, end)):
                return []
            bounds += slice(start, end).indices(length)[:2]
        else:
            return []
    return bounds
