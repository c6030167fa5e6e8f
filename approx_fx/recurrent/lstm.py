"""One direction of an LSTM layer: two ops for its recurrence, and the gradient in terms of stacked gates.

    i, f, o = sigmoid(a_i, a_f, a_o),  g = tanh(a_g),  a = x W_ih' + h W_hh' + b
    c = f c_before + i g,              h = o tanh(c),  or h = (o tanh(c)) W_hr' with a projection

The forward op returns the gates [N, 4H] and cells [N, H] of all steps, which the backward may read from codes; the
outputs are ordinary ops on them. The slopes of all gates are known before the backward's recurrence starts: it only
multiplies them with the gradients of h and c.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..torch_compat.packed_weight import RepeatedProduct
from .steps import Steps, previous


@torch.library.custom_op("approx_fx::lstm_forward", mutates_args=())
def _forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    w_hr: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    steps = Steps.of(x.shape[0], h0.shape[0], batch_sizes, reverse)
    width = c0.shape[1]
    gates, cells, outputs = functional.linear(x, w_ih, bias), x.new_empty(x.shape[0], width), x.new_empty(0)
    h, c = h0.clone(), c0.clone()
    inner, recurrent = h, RepeatedProduct.of(w_hh, h0.shape[0])
    if w_hr is not None:
        inner, outputs = torch.empty_like(c), x.new_empty(x.shape[0], w_hr.shape[0])
    for gate, cells_step, *outputs_step in steps.forward(gates, cells, *([] if w_hr is None else [outputs])):
        n = gate.shape[0]
        state, cell = h[:n], c[:n]
        i, f, g, o = gate.split(width, 1)
        recurrent.write(state, gate, add=True)
        gate[:, : 2 * width].sigmoid_()
        g.tanh_()
        o.sigmoid_()
        cells_step.copy_(cell.mul_(f).addcmul_(i, g))
        torch.tanh(cell, out=inner[:n]).mul_(o)
        if w_hr is not None:
            state.copy_(torch.mm(inner[:n], w_hr.t(), out=outputs_step[0]))
    return gates, cells, outputs, h, c


@_forward.register_fake
def _(x: Tensor, h0: Tensor, c0: Tensor, w_ih: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, (_, _, w_hr, _, _) = x.shape[0], rest
    gates, cells = x.new_empty(rows, w_ih.shape[0]), x.new_empty(rows, c0.shape[1])
    outputs = x.new_empty(0) if w_hr is None else x.new_empty(rows, w_hr.shape[0])
    return gates, cells, outputs, x.new_empty(h0.shape), x.new_empty(c0.shape)


@torch.library.custom_op("approx_fx::lstm_backward", mutates_args=())
def _backward(
    dy: Tensor,
    dh: Tensor | None,
    dc: Tensor | None,
    slopes: Tensor,
    through_cell: Tensor,
    forget: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None,
    batch_sizes: Tensor | None,
    batch: int,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    steps = Steps.of(dy.shape[0], batch, batch_sizes, reverse)
    width = forget.shape[1]
    da = torch.empty_like(slopes)
    dh = dy.new_zeros(batch, dy.shape[1]) if dh is None else dh.clone()
    dc = dy.new_zeros(batch, width) if dc is None else dc.clone()
    dh_rows = dy.new_empty(0) if w_hr is None else torch.empty_like(dy)
    recurrent = RepeatedProduct.of(w_hh.t(), batch)
    by_gate = [value.unflatten(1, (4, width)) for value in (slopes, da)]
    rows = steps.backward(dy, through_cell, forget, da, *by_gate, *([] if w_hr is None else [dh_rows]))
    for dy_step, through, f, da_step, slope, da_gates, *dh_step in rows:
        n = dy_step.shape[0]
        state, cell = dh[:n], dc[:n]
        inner = state.add_(dy_step)
        if w_hr is not None:
            inner = torch.mm(dh_step[0].copy_(state), w_hr)
        cell.addcmul_(inner, through)
        torch.mul(slope[:, 3], inner, out=da_gates[:, 3])
        torch.mul(slope[:, :3], cell.unsqueeze(1), out=da_gates[:, :3])  # i, f, g
        recurrent.write(da_step, state)
        cell.mul_(f)
    return da, dh_rows, dh, dc


@_backward.register_fake
def _(dy: Tensor, dh: Tensor | None, dc: Tensor | None, slopes: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _, forget, _, w_hr, _, batch, _ = rest
    dh_rows = dy.new_empty(0) if w_hr is None else torch.empty_like(dy)
    states = dy.new_empty(batch, dy.shape[1]), dy.new_empty(batch, forget.shape[1])
    return torch.empty_like(slopes), dh_rows, *states


class _LSTM(torch.autograd.Function):
    """The arguments of `lstm_direction` -> its results."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        bias: Tensor | None,
        w_hr: Tensor | None,
        sizes: Tensor | None,
        reverse: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        arguments = x, h0, c0, w_ih, w_hh, bias, w_hr, sizes, reverse
        gates, cells, projected, h, c = torch.ops.approx_fx.lstm_forward(*arguments)
        y = gates[:, 3 * c0.shape[1] :] * cells.tanh() if w_hr is None else projected
        ctx.save_for_backward(x, gates, cells, y, h0, c0, w_ih, w_hh, w_hr, sizes)
        ctx.reverse, ctx.has_bias = reverse, bias is not None
        ctx.set_materialize_grads(False)
        return y, h, c

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, dy: Tensor | None, dh: Tensor | None, dc: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, gates, cells, y, h0, c0, w_ih, w_hh, w_hr, sizes = ctx.saved_tensors
        i, f, g, o = gates.split(c0.shape[1], 1)
        tanh_c = cells.tanh()
        before = previous(cells, c0, sizes, ctx.reverse)
        slopes = torch.cat([g * (i * (1 - i)), before * (f * (1 - f)), i * (1 - g * g), tanh_c * (o * (1 - o))], dim=1)
        through_cell = o * (1 - tanh_c * tanh_c)
        dy = torch.zeros_like(y) if dy is None else dy
        da, dh_rows, dh0, dc0 = torch.ops.approx_fx.lstm_backward(
            dy, dh, dc, slopes, through_cell, f, w_hh, w_hr, sizes, h0.shape[0], ctx.reverse
        )
        dw_ih, dw_hh = da.t() @ x, da.t() @ previous(y, h0, sizes, ctx.reverse)
        dw_hr = None if w_hr is None else dh_rows.t() @ (o * tanh_c)
        return da @ w_ih, dh0, dc0, dw_ih, dw_hh, da.sum(0) if ctx.has_bias else None, dw_hr, None, None


def lstm_direction(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    w_hr: Tensor | None,
    sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction of an LSTM layer: (outputs [N, P], last h [B, P], last c [B, H]).

    x: [N, inputs]; h0: [B, P]; c0: [B, H]; w_ih: [4H, inputs], w_hh: [4H, P], with the gates in the order i, f, g, o;
    bias: [4H] or None; w_hr: [P, H] or None, which is P = H; sizes: rows of each step, int64 [T] on the CPU, or None,
    where each step has B; reverse: begin with the last step. All of one float dtype.
    """
    return _LSTM.apply(x, h0, c0, w_ih, w_hh, bias, w_hr, sizes, reverse)
