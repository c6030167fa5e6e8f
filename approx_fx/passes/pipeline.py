"""The pass: joint graph in, (forward, backward) out. Read, cut, choose, rewrite, split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from ..config import Config
from ..encode.base import Stored
from ..inductor.half import mark_coded
from ..joint.fake_values import is_size
from ..joint.graph import read
from ..plan.plan import Plan, plan
from ..torch_compat import aot_partitioner as aot
from .concatenate_codes import concatenate_codes
from .fast_tanh import use_fast_tanh
from .fold_batch_norm import fold_batch_norm
from .inline_ops import inline_ops
from .insert_dequantize import Decoder
from .insert_quantize import insert_quantizers
from .split_conv_backward import split_conv_backward
from .verify import Rewritten, verify


@dataclass(frozen=True)
class Partition:
    """Both halves as the pass made them, our ops visible, with the plan behind them.

    stored: anchor -> the nodes that are saved for it. copies: clone -> the value it stands for.
    """

    plan: Plan
    stored: dict[fx.Node, Stored]
    forward: fx.GraphModule
    backward: fx.GraphModule
    copies: dict[fx.Node, fx.Node]


def partition(
    module: fx.GraphModule, num_fwd_outputs: int, config: Config, static: Sequence[int] | None = None
) -> Partition:
    """Partition a joint graph, already simplified; it is changed in place. Raises PassFailed where that cannot be done.

    static: which of its inputs, by index, are parameters or buffers.
    """
    joint = read(module, num_fwd_outputs, static or ())
    decided = plan(joint, config)
    stored = insert_quantizers(decided)
    decoder = Decoder(decided, stored, config.window)
    decoder.run()
    fold_batch_norm(decided, stored, decoder.originals)
    saved = list(dict.fromkeys(node for nodes in stored.values() for node in nodes))
    inputs = [node for node in module.graph.find_nodes(op="placeholder") if node in joint.inputs and not is_size(node)]
    sizes = [node for node in joint.order if is_size(node) and node not in joint.backward]
    forward, backward = aot.split_joint_graph(module, inputs + saved, sizes, num_fwd_outputs)
    if stored:
        split_conv_backward(backward)
    done = Partition(decided, stored, forward, backward, decoder.originals)
    verify(Rewritten(decided, forward, backward, decoder.originals))
    return done


def lower(done: Partition, lowering: str = "fused") -> tuple[fx.GraphModule, fx.GraphModule]:
    """Both halves for a compiler that fuses, our ops inlined as aten; for which ops, see `Config.lowering`."""
    if lowering != "kernel":
        use_fast_tanh(done.backward)
        concatenate_codes(done.backward)
    halves = inline_ops(done.forward, lowering), inline_ops(done.backward, lowering)
    if done.stored:
        for half in halves:
            mark_coded(half)
    return halves
