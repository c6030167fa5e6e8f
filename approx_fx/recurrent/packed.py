"""Calls of nn.LSTM, nn.GRU and nn.RNN with packed batches, so that torch.compile can trace the part that is computed.

Dynamo cannot trace their forward with a PackedSequence: it asks a tensor for the number of sequences. Nor can it trace
torch's functions with packed rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .layers import gru, lstm, rnn_relu, rnn_tanh

# a layer's `mode` -> what stands in for torch's function, as one call in the graph that Dynamo traces
FUNCTIONS = {
    mode: torch.compiler.allow_in_graph(function)
    for mode, function in {"LSTM": lstm, "GRU": gru, "RNN_TANH": rnn_tanh, "RNN_RELU": rnn_relu}.items()
}


def run_packed_rows(
    layer: nn.RNNBase, rows: Tensor, batch_sizes: Tensor, states: Tensor | tuple[Tensor, Tensor]
) -> tuple[Tensor, ...]:
    """(outputs [N, P], each last state) for the rows of a packed batch, and states in its order; to be compiled."""
    return FUNCTIONS[layer.mode](
        rows, batch_sizes, states, layer._flat_weights, layer.bias, layer.num_layers, layer.dropout, layer.training,
        layer.bidirectional,
    )  # fmt: skip


def call_packed(
    run: Callable[..., tuple[Tensor, ...]],
    layer: nn.RNNBase,
    packed: PackedSequence,
    hx: Tensor | tuple[Tensor, Tensor] | None = None,
) -> tuple[PackedSequence, Any]:
    """The result of `layer(packed, hx)`, computed by `run`, a compiled `run_packed_rows`."""
    rows, batch_sizes, order, order_back = packed
    states: Any
    if hx is None:
        count = layer.num_layers * (2 if layer.bidirectional else 1)
        batch = int(batch_sizes[0])
        first = rows.new_zeros(count, batch, layer.proj_size or layer.hidden_size)
        states = (first, rows.new_zeros(count, batch, layer.hidden_size)) if layer.mode == "LSTM" else first
    else:
        states = layer.permute_hidden(hx, order)  # type: ignore[arg-type]
    layer.check_forward_args(rows, states, batch_sizes)  # type: ignore[arg-type]
    outputs, *last = run(layer, rows, batch_sizes, states)
    final: Any = tuple(last) if layer.mode == "LSTM" else last[0]
    return PackedSequence(outputs, batch_sizes, order, order_back), layer.permute_hidden(final, order_back)


def unpacking(call: Callable[..., Any], run: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
    """A function that calls a layer by `call`, and with a packed batch by `run`, a compiled `run_packed_rows`.

    Layers with hooks, and classes derived from torch's, are left to `call`.
    """

    def call_layer(layer: nn.RNNBase, *args: Any, **kwargs: Any) -> Any:
        hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
        is_packed = bool(args) and isinstance(args[0], PackedSequence)
        if is_packed and type(layer) in (nn.LSTM, nn.GRU, nn.RNN) and not any(hooks):
            return call_packed(run, layer, *args, **kwargs)
        return call(layer, *args, **kwargs)

    return call_layer
