"""`chunked_rows`: computes a region of a joint graph for a few rows at a time, op by op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def chunked_rows(
    bodies: Sequence[Callable[..., Sequence[Tensor]]],
    sizes: Sequence[int],
    sums: Sequence[bool],
    divided: Sequence[Tensor],
    whole: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """The outputs of a region: sums over all rows, of `sum_dtype`, or values [N, ...].

    bodies: (chunks of `divided`, `whole`) -> outputs, for all chunks, or for all but the last and for the last. sums:
    whether an output is a sum.
    divided: values [N m, ...], of m places for each row; whole: values that all chunks read.
    """
    rows = sum(sizes)
    parts = zip(*(value.split([size * len(value) // rows for size in sizes]) for value in divided), strict=True)
    results: list[Any] = [None] * len(sums)
    for number, chunks in enumerate(parts, 1):
        for index, output in enumerate(bodies[-1 if number == len(sizes) else 0](*chunks, *whole)):
            if not sums[index]:
                results[index] = [*(results[index] or ()), output]
            else:
                output = output.to(sum_dtype(output.dtype))
                results[index] = output if results[index] is None else results[index] + output
    return tuple(result if is_sum else torch.cat(result) for result, is_sum in zip(results, sums, strict=True))


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which chunks are added up: float32 for one of 16 bits."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
