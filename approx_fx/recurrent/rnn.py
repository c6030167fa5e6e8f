"""One direction of a plain recurrent layer: two ops for its recurrence.

h = tanh(a) or relu(a),  a = x W_ih' + h_before W_hh' + b
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .steps import Steps, previous


@torch.library.custom_op("approx_fx::rnn_forward", mutates_args=())
def _forward(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    relu: bool,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    steps = Steps.of(x.shape[0], h0.shape[0], batch_sizes, reverse)
    outputs, h = functional.linear(x, w_ih, bias), h0.clone()
    for (y,) in steps.forward(outputs):
        state = h[: y.shape[0]]
        y.addmm_(state, w_hh.t())
        state.copy_(y.relu_() if relu else y.tanh_())
    return outputs, h


@_forward.register_fake
def _(x: Tensor, h0: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], h0.shape[1]), x.new_empty(h0.shape)


@torch.library.custom_op("approx_fx::rnn_backward", mutates_args=())
def _backward(
    dy: Tensor, dh: Tensor | None, slopes: Tensor, w_hh: Tensor, batch_sizes: Tensor | None, batch: int, reverse: bool
) -> tuple[Tensor, Tensor]:
    steps = Steps.of(dy.shape[0], batch, batch_sizes, reverse)
    da = torch.empty_like(slopes)
    dh = dy.new_zeros(batch, dy.shape[1]) if dh is None else dh.clone()
    for dy_step, slope, da_step in steps.backward(dy, slopes, da):
        state = dh[: dy_step.shape[0]].add_(dy_step)
        torch.mul(state, slope, out=da_step)
        torch.mm(da_step, w_hh, out=state)
    return da, dh


@_backward.register_fake
def _(dy: Tensor, dh: Tensor | None, slopes: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, batch, _ = rest
    return torch.empty_like(slopes), dy.new_empty(batch, dy.shape[1])


class _RNN(torch.autograd.Function):
    """The arguments of `rnn_direction` -> its results."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h0: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        bias: Tensor | None,
        relu: bool,
        sizes: Tensor | None,
        reverse: bool,
    ) -> tuple[Tensor, Tensor]:
        y, h = torch.ops.approx_fx.rnn_forward(x, h0, w_ih, w_hh, bias, relu, sizes, reverse)
        y = y.relu() if relu else y  # changes nothing, but shows that it is an output of ReLU, which has its own code
        ctx.save_for_backward(x, y, h0, w_ih, w_hh, sizes)
        ctx.relu, ctx.reverse, ctx.has_bias = relu, reverse, bias is not None
        ctx.set_materialize_grads(False)
        return y, h

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, y, h0, w_ih, w_hh, sizes = ctx.saved_tensors
        slopes = (y > 0).to(y.dtype) if ctx.relu else 1 - y * y
        dy = torch.zeros_like(y) if dy is None else dy
        da, dh0 = torch.ops.approx_fx.rnn_backward(dy, dh, slopes, w_hh, sizes, h0.shape[0], ctx.reverse)
        dw_hh = da.t() @ previous(y, h0, sizes, ctx.reverse)
        return da @ w_ih, dh0, da.t() @ x, dw_hh, da.sum(0) if ctx.has_bias else None, None, None, None


def rnn_direction(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    relu: bool,
    sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """One direction of a plain recurrent layer: (outputs [N, H], last h [B, H]).

    x: [N, inputs]; h0: [B, H]; w_ih: [H, inputs]; w_hh: [H, H]; bias: [H] or None; relu: instead of tanh; sizes,
    reverse: as for `lstm_direction`.
    """
    return _RNN.apply(x, h0, w_ih, w_hh, bias, relu, sizes, reverse)
