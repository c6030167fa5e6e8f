"""The passes, in their order: a joint graph in, its forward and backward out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from ..config import Config
from ..inductor.half import mark_coded
from ..joint.graph import classify
from ..plan.plan import plan
from ..torch_compat.aot_partitioner import Halves
from .concatenate_codes import ConcatenateCodes
from .fast_tanh import FastTanh
from .fold_batch_norm import FoldBatchNorm
from .inline_ops import InlineOps
from .insert_dequantize import InsertDequantize
from .insert_quantize import InsertQuantize
from .split_conv_backward import SplitConvBackward
from .split_halves import SplitHalves
from .state import Partition, Pass
from .verify import Verify


def partitioning_passes(config: Config) -> tuple[Pass, ...]:
    """From a plan to two halves in which our ops are visible."""
    return (
        InsertQuantize(),
        InsertDequantize(config.window),
        FoldBatchNorm(),
        SplitHalves(),
        SplitConvBackward(),
        Verify(),
    )


def lowering_passes(lowering: str) -> tuple[Pass, ...]:
    """From there to halves for a compiler that fuses; lowering: see `Config.lowering`."""
    if lowering == "kernel":
        return (InlineOps(lowering),)
    return (FastTanh(), ConcatenateCodes(), InlineOps(lowering))


def partition(
    module: fx.GraphModule, num_fwd_outputs: int, config: Config, static: Sequence[int] | None = None
) -> Partition:
    """Partition a joint graph, already simplified; it is changed in place. Raises PassFailed where that cannot be done.

    static: which of its inputs, by index, are parameters or buffers.
    """
    done = Partition(plan(classify(module, num_fwd_outputs, static or ()), config))
    for run in partitioning_passes(config):
        done = run(done)
    return done


def lower(done: Partition, lowering: str = "fused") -> Halves:
    """Both halves for a compiler that fuses; they are changed in place, so whatever reads our ops goes first."""
    for run in lowering_passes(lowering):
        done = run(done)
    halves = done.forward, done.backward
    if done.stored:
        for half in halves:
            mark_coded(half)
    return halves
