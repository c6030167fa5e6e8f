"""Has the backward of an attention normalise the probabilities that it computes from the codes of query and key.

The backward of a fused attention computes P = exp(q k^T scale - L), where L is the log-sum-exp that the forward has
saved. From codes it computes P' = exp(q' k'^T scale - L): with scores that are off by d, probabilities are off by a
factor e^d, and nothing bounds their sum. Scores grow while a model trains, and so does d, which is in proportion to
them; gradients that are too large make them grow faster. With L' of the coded scores the rows of P' sum to 1, and the
gradient is that of the attention at q', k' and v'. L' and the output there take one more forward of the attention.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from ..errors import PassFailed
from ..joint.op_table import ATTENTION, ATTENTION_BACKWARD, name_of
from .node_builder import Builder
from .state import Partition

OUTPUT, LOG_SUM_EXP = 0, 1  # positions among the results of every attention op


@dataclass(frozen=True)
class NormaliseAttention:
    """Pass: an attention's backward that reads a coded query or key gets the log-sum-exp of the coded scores.

    Without dropout it gets the output of that forward, too, and does not decode the saved one. What it then does not
    read is not saved for it.
    """

    def __call__(self, partition: Partition) -> Partition:
        """Add one forward before each such backward, in place."""
        joint = partition.plan.joint
        builder = Builder.on(joint.module.graph)
        for node in list(joint.module.graph.nodes):
            positions = ATTENTION_BACKWARD.get(name_of(node))
            if positions is None or node not in joint.backward or "flex" in name_of(node):
                continue
            _, query, key, *_ = positions
            is_recomputed = _forward_of(node)[1] in partition.copies  # of what the backward reads, in a checkpoint
            if {node.args[query], node.args[key]} & partition.copies.keys() and not is_recomputed:
                _normalise(node, positions, builder, partition.copies)
        return partition


def _normalise(
    backward: fx.Node, positions: tuple[int, ...], builder: Builder, copies: Mapping[fx.Node, fx.Node]
) -> None:
    """Give an attention's backward the results of a forward on what it reads. copies: copy -> the value it stands for.

    A bias that it reads may be a copy, computed again from exact values.
    """
    forward, log_sum_exp = _forward_of(backward)
    operands = [backward.args[position] for position in positions[1:4]]
    others = [source for source in forward.all_input_nodes if source not in forward.args[:3]]
    read = {copies.get(source, source): source for source in backward.all_input_nodes}
    unread = [source.name for source in others if source not in read]
    if unread:
        raise PassFailed(f"the backward of {forward.name} does not read {unread[0]}, which its scores depend on")
    with builder.before(backward, forward) as build:
        args, kwargs, dropout = _without_dropout(forward)
        others_read, options_read = fx.map_arg((args[3:], kwargs), lambda node: read.get(node, node))
        again = build.call(forward.target, *operands, *others_read, **options_read)  # type: ignore[arg-type]
        normaliser = build.call(operator.getitem, again, LOG_SUM_EXP)
        output = None if dropout else build.call(operator.getitem, again, OUTPUT)
    backward.replace_input_with(log_sum_exp, normaliser)
    if output is not None:
        backward.update_arg(positions[4], output)


def _forward_of(backward: fx.Node) -> tuple[fx.Node, fx.Node]:
    """The attention whose backward this is, and its log-sum-exp."""
    for value in backward.all_input_nodes:
        source = value.args[0] if value.target is operator.getitem else None
        if isinstance(source, fx.Node) and name_of(source) in ATTENTION and value.args[1] == LOG_SUM_EXP:
            return source, value
    raise PassFailed(f"{backward.name} does not read the log-sum-exp of an attention of the graph")


def _without_dropout(forward: fx.Node) -> tuple[list[Any], dict[str, Any], Any]:
    """The attention's arguments with a dropout of 0, and its dropout."""
    args: list[Any] = list(forward.args)
    kwargs: dict[str, Any] = dict(forward.kwargs)
    dropout: Any = 0.0
    for position, argument in enumerate(forward.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name == "dropout_p":
            if position < len(args):
                dropout, args[position] = args[position], 0.0
            else:
                dropout = kwargs.pop("dropout_p", 0.0)
    return args, kwargs, dropout
