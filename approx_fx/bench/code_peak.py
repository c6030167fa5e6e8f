"""`code_peak`: predict a step's peak from the code that Inductor generates for it, without compiling or running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from ..backend import Partitioning, activations_among
from ..chunk.deferred import defer_logits, with_deferred
from ..config import Config
from ..errors import ApproxFxError
from ..explain import check_trainable, split_arguments, trace_on_fakes
from ..inductor.compile import Partitioner
from ..inductor.generate import generate_code
from .timeline import predict


def code_peak(
    model: nn.Module,
    *inputs: Any,
    dtype: torch.dtype | None = None,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, int]:
    """Peak bytes of a training step of `model(*inputs, **kwargs)`: {'before': by torch.compile, 'after': by this pass}.

    Takes the arguments of `explain` and, like it, runs nothing. What it counts: see `timeline.Moment`. It takes about
    as long as Inductor's part of the two compiles, without that of the C++ or Triton compiler.
    Raises ApproxFxError as `explain` does, if sizes are symbolic, and for a model with torch's recurrent layers.
    """
    settings, keywords = split_arguments(model, options, kwargs)
    config = Config.of(settings)
    check_trainable(model, inputs, keywords)
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        raise ApproxFxError("nn.LSTM, nn.GRU and nn.RNN are not in torch.compile's code, which calls them.")
    before = peak_of(model, inputs, keywords, dtype)
    return {
        "before": before,
        "after": before if config.bits is None else peak_of(model, inputs, keywords, dtype, config),
    }


def peak_of(
    model: nn.Module,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    config: Config | None = None,
    inductor: Mapping[str, Any] | None = None,
) -> int:
    """Peak bytes of a step by this pass with `config`, or by torch.compile with these options of Inductor's."""
    forwards: list[str] = []
    backwards: list[str] = []

    def collect(module: fx.GraphModule, values: Sequence[Any]) -> Any:
        deferred: list[Any] = []
        partitioner = None
        if config is not None:
            deferred = defer_logits(module) if config.chunk_loss else []
            partitioning = Partitioning(config, "", activations=activations_among(values), to_disk=False)
            partitioner = Partitioner(config.key(), partitioning)
        call, sources = generate_code(module, values, partitioner, inductor if config is None else config.inductor)
        forwards.extend(sources[:1])
        backwards[:0] = sources[1:]
        return with_deferred(call, deferred)

    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):  # else a second length's sizes are symbols
        trace_on_fakes(model, inputs, keywords, dtype, collect)
    return predict([*forwards, *backwards]).peak.live
