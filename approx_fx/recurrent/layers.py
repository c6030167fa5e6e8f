"""torch.lstm, torch.gru, torch.rnn_tanh and torch.rnn_relu, with the same arguments, made of this package's ops.

All layers and directions of a call; each direction of a layer is one op forward and one backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .gru import gru_direction
from .lstm import lstm_direction
from .rnn import rnn_direction

# (x, initial states, weights of a direction, sizes, reverse) -> (outputs, last states)
Direction = Callable[..., tuple[Tensor, Sequence[Tensor]]]


@dataclass(frozen=True)
class Weights:
    """The weights of one direction of a layer, in the order in which torch keeps them; see torch.nn.LSTM."""

    ih: Tensor
    hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    hr: Tensor | None = None

    @classmethod
    def of(cls, values: Sequence[Tensor], has_biases: bool) -> Weights:
        """The weights of one direction. values: with the biases, if there are any, behind the first two."""
        biases = values[2:4] if has_biases else [None, None]
        return cls(*values[:2], *biases, *values[4 if has_biases else 2 :])

    @property
    def bias(self) -> Tensor | None:
        """The sum of both biases."""
        return None if self.b_ih is None or self.b_hh is None else self.b_ih + self.b_hh


def _lstm(
    x: Tensor, states: Sequence[Tensor], weights: Weights, sizes: Tensor | None, reverse: bool
) -> tuple[Tensor, Sequence[Tensor]]:
    h0, c0 = states
    y, *last = lstm_direction(x, h0, c0, weights.ih, weights.hh, weights.bias, weights.hr, sizes, reverse)
    return y, last


def _gru(
    x: Tensor, states: Sequence[Tensor], weights: Weights, sizes: Tensor | None, reverse: bool
) -> tuple[Tensor, Sequence[Tensor]]:
    bias, b_hn = None, None
    if weights.b_ih is not None and weights.b_hh is not None:
        outside, b_hn = weights.b_hh.split([2 * states[0].shape[1], states[0].shape[1]])
        bias = weights.b_ih + torch.cat([outside, torch.zeros_like(b_hn)])
    y, *last = gru_direction(x, states[0], weights.ih, weights.hh, bias, b_hn, sizes, reverse)
    return y, last


def _rnn(
    x: Tensor, states: Sequence[Tensor], weights: Weights, sizes: Tensor | None, reverse: bool, relu: bool
) -> tuple[Tensor, Sequence[Tensor]]:
    y, *last = rnn_direction(x, states[0], weights.ih, weights.hh, weights.bias, relu, sizes, reverse)
    return y, last


def lstm(data: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Give the results of torch.lstm for the same arguments."""
    return _call(_lstm, data, *arguments)


def gru(data: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Give the results of torch.gru for the same arguments."""
    return _call(_gru, data, *arguments)


def rnn_tanh(data: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Give the results of torch.rnn_tanh for the same arguments."""
    return _call(partial(_rnn, relu=False), data, *arguments)


def rnn_relu(data: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Give the results of torch.rnn_relu for the same arguments."""
    return _call(partial(_rnn, relu=True), data, *arguments)


def _call(direction: Direction, data: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """(outputs, each last state) of a call by either of the two signatures that torch's functions have.

    arguments: (states, weights, has biases, layers, dropout, train, bidirectional, batch first), or, for a packed
    batch, (batch sizes, states, weights, has biases, layers, dropout, train, bidirectional).
    """
    is_packed = isinstance(arguments[2], (list, tuple))
    if is_packed:
        y, last = _run(direction, data, *arguments)
        return y, *last
    *others, batch_first = arguments
    x = data.transpose(0, 1) if batch_first else data
    y, last = _run(direction, x.reshape(-1, x.shape[-1]), None, *others)
    y = y.view(x.shape[0], x.shape[1], y.shape[-1])
    return y.transpose(0, 1) if batch_first else y, *last


def _run(
    direction: Direction,
    x: Tensor,
    sizes: Tensor | None,
    initial: Tensor | Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
) -> tuple[Tensor, list[Tensor]]:
    """(outputs [N, directions * P], each last state [layers * directions, B, ...]) of all layers. x: [N, inputs]."""
    states = [initial] if isinstance(initial, Tensor) else list(initial)
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, states, weights = x.to(dtype), [s.to(dtype) for s in states], [w.to(dtype) for w in weights]
    directions = 2 if bidirectional else 1
    per_direction = len(weights) // (layers * directions)
    last: list[Sequence[Tensor]] = []
    for layer in range(layers):
        outputs = []
        for index in range(layer * directions, (layer + 1) * directions):
            part = Weights.of(weights[index * per_direction : (index + 1) * per_direction], has_biases)
            reverse = index % directions == 1
            y, final = direction(x, [state[index] for state in states], part, sizes, reverse)
            outputs.append(y)
            last.append(final)
        x = outputs[0] if directions == 1 else torch.cat(outputs, dim=1)
        if dropout and train and layer < layers - 1:
            x = functional.dropout(x, dropout)
    return x, [torch.stack(final) for final in zip(*last, strict=True)]


# torch's function -> the one that stands in for it
STAND_INS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.lstm: lstm,
    torch.gru: gru,
    torch.rnn_tanh: rnn_tanh,
    torch.rnn_relu: rnn_relu,
}
