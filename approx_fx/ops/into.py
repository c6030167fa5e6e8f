"""Ops that write to memory that is there already: `matmul_into`, `copy_rows_into`, `store_rows_into`,
`store_into`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Rows of a product in another dtype than the sum that it is added to, which are in memory at a time.
ROWS = 4096


def matmul_into(out: Tensor, a: Tensor, b: Tensor, start: int, add: bool) -> None:
    """Write a b, for a [n, k] and b [k, m], into the rows [start, start + n) of `out` [N, m], or add it to them.

    out: of the dtype of a and b, or float32 where those have 16 bits.
    """
    rows = out[start : start + a.shape[0]]
    if out.dtype == a.dtype:
        if add:
            rows.addmm_(a, b)
        else:
            torch.mm(a, b, out=rows)
        return
    for part, operand in zip(rows.split(ROWS), a.split(ROWS), strict=True):
        product = torch.mm(operand, b)
        if add:
            part.add_(product)
        else:
            part.copy_(product)


def copy_rows_into(outs: Sequence[Tensor], sources: Sequence[Tensor], start: int, rows: int) -> None:
    """Copy a chunk of each source [rows m, ...], from its row start m on, to its `out` [n m, ...]."""
    for out, source in zip(outs, sources, strict=True):
        first = start * source.shape[0] // rows
        out.copy_(source[first : first + out.shape[0]])


def store_into(out: Tensor, value: Tensor) -> None:
    """Copy a value to `out`, of the same shape and dtype."""
    out.copy_(value)


def store_rows_into(out: Tensor, value: Tensor, start: int) -> None:
    """Copy a value [n, ...] to the rows [start, start + n) of `out` [N, ...]."""
    out[start : start + value.shape[0]].copy_(value)


# Defined without the wrapper of torch.library.custom_op, which takes longer than these ops on a small chunk.
_LIBRARY = torch.library.Library("approx_fx", "FRAGMENT")
for _schema, _op in (
    ("matmul_into(Tensor(a!) out, Tensor a, Tensor b, SymInt start, bool add) -> ()", matmul_into),
    ("copy_rows_into(Tensor(a!)[] outs, Tensor[] sources, SymInt start, SymInt rows) -> ()", copy_rows_into),
    ("store_into(Tensor(a!) out, Tensor value) -> ()", store_into),
    ("store_rows_into(Tensor(a!) out, Tensor value, SymInt start) -> ()", store_rows_into),
):
    _LIBRARY.define(_schema)
    _LIBRARY.impl(_op.__name__, _op, "CompositeExplicitAutograd")
    _LIBRARY.impl(_op.__name__, lambda *args: None, "Meta")

MATMUL_INTO = torch.ops.approx_fx.matmul_into.default
COPY_ROWS_INTO = torch.ops.approx_fx.copy_rows_into.default
STORE_ROWS_INTO = torch.ops.approx_fx.store_rows_into.default
STORE_INTO = torch.ops.approx_fx.store_into.default
