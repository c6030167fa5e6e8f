"""The rows of a sequence batch in the order in which a recurrent layer goes through them.

A batch is one tensor of rows [N, ...], step after step. Without `batch_sizes` each step has as many rows as the states
have; with it, as in a PackedSequence, step t has batch_sizes[t], which never grows, and row b of a step continues row b
of the step before. States are [B, ...]; a step of n rows changes the first n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Steps:
    """counts: rows of each step, in the order of the rows; reverse: the layer begins with the last step."""

    counts: Sequence[int]
    reverse: bool

    @classmethod
    def of(cls, rows: int, batch: int, batch_sizes: Tensor | None, reverse: bool) -> Steps:
        """The steps of a batch of `rows` rows; batch: rows of the states; batch_sizes: int64 [T] on the CPU."""
        counts = [batch] * (rows // batch if batch else 0) if batch_sizes is None else batch_sizes.tolist()
        return cls(counts, reverse)

    def forward(self, *values: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The rows of each step, in the layer's order; one view of each value."""
        parts = list(zip(*(value.split(self.counts) for value in values), strict=True))
        return iter(reversed(parts) if self.reverse else parts)

    def backward(self, *values: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The rows of each step, in the order of the layer's backward."""
        return Steps(self.counts, not self.reverse).forward(*values)


@torch.library.custom_op("approx_fx::previous_rows", mutates_args=())
def _previous_rows(batch_sizes: Tensor, rows: int, batch: int, reverse: bool) -> Tensor:
    first, starts = 0, []
    counts = batch_sizes.tolist()
    for count in counts:
        starts.append(first)
        first += count
    index = torch.empty(rows, dtype=torch.int64)
    for t, count in enumerate(counts):
        before = t + 1 if reverse else t - 1
        known = counts[before] if 0 <= before < len(counts) else 0
        of_step = index[starts[t] : starts[t] + count]
        torch.arange(count, out=of_step)
        if known:
            of_step[: min(known, count)] += batch + starts[before]
    return index


@_previous_rows.register_fake
def _(batch_sizes: Tensor, rows: int, batch: int, reverse: bool) -> Tensor:
    return torch.empty(rows, dtype=torch.int64, device="cpu")


def previous(rows: Tensor, initial: Tensor, batch_sizes: Tensor | None, reverse: bool) -> Tensor:
    """For each row [N, ...] the one that the layer computed a step earlier in the same sequence, or its initial state
    [B, ...]."""
    batch = initial.shape[0]
    if batch_sizes is None:
        return torch.cat([rows[batch:], initial] if reverse else [initial, rows[: rows.shape[0] - batch]])
    index = torch.ops.approx_fx.previous_rows(batch_sizes, rows.shape[0], batch, reverse)
    return torch.cat([initial, rows]).index_select(0, index.to(rows.device))
