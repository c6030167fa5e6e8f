"""One direction of a GRU layer: two ops for its recurrence, and the gradient in terms of stacked gates.

    a = x W_ih' + b,  s = h_before W_hh',  m = s_n + b_hn
    r, z = sigmoid(a_r + s_r, a_z + s_z),  n = tanh(a_n + r m),  h = n + z (h_before - n)

The forward op returns r, z and n [N, 3H], m and h [N, H] of all steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .steps import Steps, previous


@torch.library.custom_op("approx_fx::gru_forward", mutates_args=())
def _forward(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    b_hn: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    steps = Steps.of(x.shape[0], h0.shape[0], batch_sizes, reverse)
    width = h0.shape[1]
    gates, inner = functional.linear(x, w_ih, bias), x.new_empty(x.shape[0], width)
    outputs = torch.empty_like(inner)
    h, sums = h0.clone(), x.new_empty(h0.shape[0], 3 * width)
    b_hn = x.new_zeros(width) if b_hn is None else b_hn
    for gate, m, y in steps.forward(gates, inner, outputs):
        count = gate.shape[0]
        state, total = h[:count], sums[:count]
        r, z, n = gate.split(width, 1)
        torch.mm(state, w_hh.t(), out=total)
        torch.add(total[:, 2 * width :], b_hn, out=m)
        gate[:, : 2 * width].add_(total[:, : 2 * width]).sigmoid_()
        n.addcmul_(r, m).tanh_()
        state.sub_(n).mul_(z).add_(n)
        y.copy_(state)
    return gates, inner, outputs, h


@_forward.register_fake
def _(x: Tensor, h0: Tensor, w_ih: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = x.shape[0], h0.shape[1]
    return x.new_empty(x.shape[0], w_ih.shape[0]), x.new_empty(shape), x.new_empty(shape), x.new_empty(h0.shape)


@torch.library.custom_op("approx_fx::gru_backward", mutates_args=())
def _backward(
    dy: Tensor,
    dh: Tensor | None,
    slopes: Tensor,
    gates: Tensor,
    w_hh: Tensor,
    batch_sizes: Tensor | None,
    batch: int,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    steps = Steps.of(dy.shape[0], batch, batch_sizes, reverse)
    width = dy.shape[1]
    ds, dn = torch.empty_like(slopes), torch.empty_like(dy)
    dh = dy.new_zeros(batch, width) if dh is None else dh.clone()
    for dy_step, slope, gate, ds_step, dn_step in steps.backward(dy, slopes, gates, ds, dn):
        state = dh[: dy_step.shape[0]].add_(dy_step)
        (slope_r, slope_z, slope_n), (r, z) = slope.split(width, 1), gate.split(width, 1)
        ds_r, ds_z, ds_n = ds_step.split(width, 1)
        torch.mul(state, slope_n, out=dn_step)
        torch.mul(state, slope_z, out=ds_z)
        torch.mul(dn_step, slope_r, out=ds_r)
        torch.mul(dn_step, r, out=ds_n)
        state.mul_(z).addmm_(ds_step, w_hh)
    return ds, dn, dh


@_backward.register_fake
def _(dy: Tensor, dh: Tensor | None, slopes: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, batch, _ = rest
    return torch.empty_like(slopes), torch.empty_like(dy), dy.new_empty(batch, dy.shape[1])


class _GRU(torch.autograd.Function):
    """The arguments of `gru_direction` -> its results."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h0: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        bias: Tensor | None,
        b_hn: Tensor | None,
        sizes: Tensor | None,
        reverse: bool,
    ) -> tuple[Tensor, Tensor]:
        gates, inner, y, h = torch.ops.approx_fx.gru_forward(x, h0, w_ih, w_hh, bias, b_hn, sizes, reverse)
        ctx.save_for_backward(x, gates, inner, y, h0, w_ih, w_hh, sizes)
        ctx.reverse, ctx.has_bias = reverse, bias is not None
        ctx.set_materialize_grads(False)
        return y, h

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, gates, inner, y, h0, w_ih, w_hh, sizes = ctx.saved_tensors
        r, z, n = gates.split(h0.shape[1], 1)
        before = previous(y, h0, sizes, ctx.reverse)
        slopes = torch.cat([inner * (r * (1 - r)), (before - n) * (z * (1 - z)), (1 - z) * (1 - n * n)], dim=1)
        dy = torch.zeros_like(y) if dy is None else dy
        ds, dn, dh0 = torch.ops.approx_fx.gru_backward(
            dy, dh, slopes, gates[:, : 2 * h0.shape[1]], w_hh, sizes, h0.shape[0], ctx.reverse
        )
        width = h0.shape[1]
        da = torch.cat([ds[:, : 2 * width], dn], dim=1)
        db, db_hn = (da.sum(0), ds[:, 2 * width :].sum(0)) if ctx.has_bias else (None, None)
        return da @ w_ih, dh0, da.t() @ x, ds.t() @ before, db, db_hn, None, None


def gru_direction(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    b_hn: Tensor | None,
    sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """One direction of a GRU layer: (outputs [N, H], last h [B, H]).

    x: [N, inputs]; h0: [B, H]; w_ih: [3H, inputs], w_hh: [3H, H], with the gates in the order r, z, n; bias: [3H], all
    biases but b_hn, [H], which is inside the product with r; both or neither are None; sizes, reverse: as for
    `lstm_direction`.
    """
    return _GRU.apply(x, h0, w_ih, w_hh, bias, b_hn, sizes, reverse)
