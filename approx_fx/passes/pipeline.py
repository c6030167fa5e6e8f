"""The list of passes: from a joint graph to its forward and backward halves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import fx

from ..config import Config
from ..inductor.half import mark_coded
from ..joint.graph import classify
from ..plan.decisions import NONE, Decisions
from ..plan.plan import plan
from ..torch_compat.aot_partitioner import Halves
from .accumulate_scatters import AccumulateScatters
from .chunk_loss import MOST_ADDED_FLOPS, chunk_losses
from .concatenate_codes import ConcatenateCodes
from .fast_tanh import FastTanh
from .fold_batch_norm import FoldBatchNorm
from .inline_ops import InlineOps
from .insert_dequantize import InsertDequantize
from .insert_quantize import InsertQuantize
from .normalise_attention import NormaliseAttention
from .split_conv_backward import SplitConvBackward
from .split_halves import SplitHalves
from .state import Partition, Pass
from .unroll_chunks import UnrollChunks
from .verify import Verify


def partitioning_passes(config: Config) -> tuple[Pass, ...]:
    """The passes from a plan to two halves that call our ops."""
    return (
        InsertQuantize(),
        InsertDequantize(config.window),
        NormaliseAttention(),
        FoldBatchNorm(),
        SplitHalves(),
        UnrollChunks(),
        SplitConvBackward(),
        AccumulateScatters(),
        Verify(),
    )


def lowering_passes(lowering: str) -> tuple[Pass, ...]:
    """The passes that prepare both halves for a compiler that fuses. lowering: see `Config.lowering`."""
    if lowering == "kernel":
        return (InlineOps(lowering),)
    return (FastTanh(), ConcatenateCodes(), InlineOps(lowering))


def partition(
    module: fx.GraphModule,
    num_fwd_outputs: int,
    config: Config,
    static: Sequence[int] | None = None,
    decisions: Decisions = NONE,
    activations: Sequence[int] = (),
) -> Partition:
    """Partition a simplified joint graph, in place. Raises PassFailed if the graph cannot be handled.

    num_fwd_outputs: how many of its outputs are the forward's. static: indices of inputs that are parameters or
    buffers; activations: of inputs that another graph computed. decisions: what was decided after measuring an earlier
    plan.
    """
    most_added_flops = math.inf if config.chunk_loss == "always" else MOST_ADDED_FLOPS
    losses = chunk_losses(module, num_fwd_outputs, most_added_flops) if config.chunk_loss else []
    state = Partition(
        plan(classify(module, num_fwd_outputs, static or (), activations), config, decisions), losses=losses
    )
    for run in partitioning_passes(config):
        state = run(state)
    return state


def lower(partition: Partition, lowering: str = "fused") -> Halves:
    """Prepare both halves for a compiler that fuses, in place: anything that looks for our ops has to run before."""
    for run in lowering_passes(lowering):
        partition = run(partition)
    halves = partition.forward, partition.backward
    if partition.stored:
        for half in halves:
            mark_coded(half)
    return halves
