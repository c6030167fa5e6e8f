"""`code_peak`: predict a step's peak from the code that Inductor generates for it, without compiling or running it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from ..backend import Partitioning, activations_among, code_by
from ..chunk.deferred import defer_logits, with_deferred
from ..config import Config
from ..errors import ApproxFxError
from ..explain import check_trainable, split_arguments, trace_on_fakes
from ..measure.first_step import Planned
from ..measure.smaller_peak import within
from ..peak.generate import generate_code
from ..peak.timeline import predict
from ..plan.decisions import NONE, Decisions

log = logging.getLogger("approx_fx")


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
    if config.bits is None:
        return {"before": before, "after": before}
    planned: list[Planned] = []

    def peak(decisions: Decisions) -> int:
        return peak_of(model, inputs, keywords, dtype, config, decisions=decisions, planned=planned)

    after, changes = within(before, NONE, peak, lambda: all(graph.returns_scalars for graph in planned))
    if "exact" in changes:
        log.warning("approx_fx would leave the model exact: %s", changes["exact"])
    return {"before": before, "after": after}


def peak_of(
    model: nn.Module,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    config: Config | None = None,
    inductor: Mapping[str, Any] | None = None,
    decisions: Decisions = NONE,
    planned: list[Planned] | None = None,
) -> int:
    """Peak bytes of a step by this pass with `config`, or by torch.compile with these options of Inductor's.

    decisions: by which the pass plans. planned: a list to which the graphs that the pass split are added.
    """
    forwards: list[str] = []
    backwards: list[str] = []

    def collect(module: fx.GraphModule, values: Sequence[Any]) -> Any:
        deferred: list[Any] = []
        if config is None:
            call, sources = generate_code(module, values, options=inductor)
        else:
            deferred = defer_logits(module) if config.chunk_loss else []
            partitioning = Partitioning(config, "", decisions, activations=activations_among(values), to_disk=False)
            call, sources = code_by(partitioning, module, values)
            if planned is not None and partitioning.planned is not None:
                planned.append(partitioning.planned)
        forwards.extend(sources[:1])
        backwards[:0] = sources[1:]
        return with_deferred(call, deferred)

    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):  # else a second length's sizes are symbols
        trace_on_fakes(model, inputs, keywords, dtype, collect)
    return predict([*forwards, *backwards]).peak.live
