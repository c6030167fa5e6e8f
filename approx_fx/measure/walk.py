"""Runs a planned forward once more, op by op, and compares what the backward will read with what it would read exactly.

Nothing is kept: a code is decoded where it was made, a copy is dropped behind the last copy that is recomputed from
it, a value behind its last reader. So the walk needs less memory than the step itself.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ..encode.base import Encoding
from ..joint.fake_values import tensor
from ..joint.op_table import ELEMENT_PRESERVING, VIEWS, skip_ops
from ..joint.value_kinds import is_softmax
from ..plan.plan import Plan
from ..process.glibc_malloc import freed_memory_kept
from ..torch_compat.dispatch_modes import undispatched
from ..torch_compat.fake_tensors import symbols_of
from .errors import attended_error, probability_error, relative_error, score_error
from .real_values import RealBuild
from .sampling import divided_arguments, divided_fake, first_part, parts
from .schedule import Schedule, attended_by, copied_sources, is_measured, row_norm_of, schedule


@dataclass(frozen=True)
class Measured:
    """The error of one value that the backward reads or decodes.

    error: see `errors.relative_error`. alternative: for a code whose error is above `allowed`, the index of the first
    alternative of its usual encoding that is good enough, their number if there is none; None if none is needed.
    widen: the values whose codes need more bits, instead of an alternative, because their product fails.
    """

    value: fx.Node
    error: float
    allowed: float
    alternative: int | None = None
    widen: tuple[fx.Node, ...] = ()

    @property
    def offends(self) -> bool:
        """Whether the error is larger than allowed."""
        return not self.error <= self.allowed


def allowed_error(bits: int, promised: float) -> float:
    """The largest error of a code for which nothing is done. promised: `Encoding.expected_error`."""
    return min(max(FACTOR * max(promised, USUAL / 2**bits), LEAST_ALLOWED), MOST_ALLOWED)


# The measured error may be so many times the promised one.
FACTOR = 2.2
# The error of a code of b bits for a Gaussian value is about this, divided by 2^b.
USUAL = 1.7
# With an error of 0.1 in each value, the cosine of a gradient is about 0.99.
LEAST_ALLOWED = 0.1
MOST_ALLOWED = 0.9
# What replaces a code that failed has to be better than what would have been allowed: such data are hard to code.
BETTER = 0.6


def measure(plan: Plan, inputs: Sequence[Any]) -> list[Measured]:
    """Measure every code, and every value recomputed from codes that the backward reads, in graph order.

    inputs: the values of the joint graph's first placeholders, the forward's inputs; they are not changed. Values that
    depend on another process or on a higher-order op are left out.
    """
    walk = _Walk.of(plan, inputs)
    devices = {value.device for value in inputs if isinstance(value, torch.Tensor) and value.is_cuda}
    with torch.no_grad(), torch.random.fork_rng(list(devices)), undispatched(), freed_memory_kept():
        return [result for node in walk.schedule.order for result in walk.visit(node)]


@dataclass
class _Walk:
    """The state of the walk. values, copies: what is alive. parts: see `sampling.parts`."""

    plan: Plan
    schedule: Schedule
    build: RealBuild
    parts: dict[fx.Node, int]
    values: dict[fx.Node, Any]
    copies: dict[fx.Node, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, inputs: Sequence[Any]) -> _Walk:
        """Schedule the walk and bind the inputs."""
        graph, steps = plan.joint.module.graph, schedule(plan)
        placeholders = [node for node in graph.find_nodes(op="placeholder") if node in plan.joint.inputs]
        values = dict(zip(placeholders, inputs, strict=True))
        part_counts = parts(steps.made, {value: copied_sources(plan, value) for value in steps.made})
        return cls(plan, steps, RealBuild(values, symbols_of(graph, inputs)), part_counts, values)

    def visit(self, node: fx.Node) -> Iterator[Measured]:
        """Run one node, then make and measure the copies that can be made behind it, then drop what is not read."""
        if node.op == "get_attr":
            self.values[node] = operator.attrgetter(str(node.target))(self.plan.joint.module)
        elif node.op == "call_function":
            args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), self.build.value_of)
            self.values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        for value in self.schedule.copies_at.get(node, []):
            copy = self._copy(value)
            self.copies[value] = copy
            if is_measured(self.plan, value) and isinstance(copy, torch.Tensor) and copy.is_floating_point():
                yield self._measured(value, copy)
        for attention in self.schedule.scores_at.get(node, []):
            yield self._scores(attention)
        for value in self.schedule.copies_until.get(node, []):
            self.copies.pop(value, None)
        for value in self.schedule.values_until.get(node, []):
            self.values.pop(value, None)

    def _copy(self, value: fx.Node) -> Any:
        """What the backward will read for an approximate value."""
        plan = self.plan
        if value in plan.carried:
            return self.values[value]  # a mask that is a bit of a code is exact
        if value in plan.anchors:
            return self._decoded(value, plan.anchors[value])
        count = self.parts[value]
        operands = {source: self.copies.get(source, self.values.get(source)) for source in value.all_input_nodes}
        if count == 1:
            args, kwargs = fx.map_arg((value.args, dict(value.kwargs)), operands.__getitem__)
        else:
            args, kwargs = divided_arguments(value, count, operands)
        copy = value.target(*args, **kwargs)  # type: ignore[operator]
        mask = plan.relu_masks.get(value)
        if mask is None:
            return copy
        zero = torch.zeros((), dtype=copy.dtype, device=copy.device)
        side = first_part(self.values[mask.node], count)
        return torch.where(side, copy, zero) if mask.positive else torch.where(side, zero, copy)

    def _decoded(self, value: fx.Node, encoding: Encoding) -> Any:
        """A value's code, decoded."""
        count = self.parts[value]
        if count == 1:
            build, coded = self.build, value
        else:
            rows = self.values[value].shape[0]
            inputs = {node: self.values[node] for node in encoding.inputs(value)}
            divided = {
                node: first_part(item, count) if item.ndim == self.values[value].ndim and len(item) == rows else item
                for node, item in inputs.items()
            }
            coded = divided_fake(value, count)
            build = RealBuild({**divided, coded: divided[value]}, self.build.sizes)
        return encoding.decode(build, encoding.encode(build, coded), coded)  # type: ignore[arg-type]

    def _measured(self, value: fx.Node, copy: Any) -> Measured:
        plan, encoding = self.plan, self.plan.anchors.get(value)
        sources = [value] if encoding is not None else plan.codes_behind(value)
        allowed = max(allowed_error(plan.anchors[anchor].bits, promised(plan, anchor)) for anchor in sources)
        error = self._error(value, copy)
        if encoding is None or error <= allowed:
            return Measured(value, error, allowed)
        alternatives = plan.usual[value].alternatives(value, plan.context)
        least = BETTER * allowed
        passing = (i for i, a in enumerate(alternatives) if self._error(value, self._decoded(value, a)) <= least)
        return Measured(value, error, allowed, next(passing, len(alternatives)))

    def _scores(self, attention: fx.Node) -> Measured:
        """The error of an attention's scores, which its backward computes again from the codes of query and key.

        An error of the scores is relative in the probabilities, exp(score - log-sum-exp), and without a bound there.
        """
        nodes: Any = attention.args[:2]
        count = max(self.parts.get(node, 1) for node in nodes)
        exact = [first_part(self.values[node], count) for node in nodes]
        copies = [
            first_part(self.copies[node], count // self.parts[node]) if node in self.copies else value
            for node, value in zip(nodes, exact, strict=True)
        ]
        scale: Any = attention.kwargs.get("scale")
        error = score_error(exact, copies, scale)
        anchors = [anchor for node in nodes for anchor in self.plan.codes_behind(node)]
        bits = min((self.plan.anchors[anchor].bits for anchor in anchors), default=8)
        return Measured(nodes[0], error, allowed_error(bits, 0.0), widen=tuple(nodes))

    def _error(self, value: fx.Node, copy: Any) -> float:
        exact = first_part(self.values[value], self.parts[value])
        encoding = self.plan.anchors.get(value)
        norm = encoding.batch_norm() if encoding is not None else None
        row_norm = row_norm_of(self.plan, value)
        if norm is not None:  # its reader subtracts the mean
            mean = self.values[norm.mean].reshape([-1 if dim == norm.dim else 1 for dim in range(exact.ndim)])
            exact, copy = exact.float() - mean, copy.float() - mean
        elif row_norm is not None:  # and divides each row by its own deviation
            statistics = [node for node in (row_norm.mean, row_norm.rstd) if node is not None]
            rows, count = len(self.values[value]), self.parts[value]
            items = [self.values[node] for node in statistics]
            *mean, rstd = (first_part(item, count) if len(item) == rows else item for item in items)
            exact, copy = ((item.float() - sum(mean)) * rstd for item in (exact, copy))
        elif (attended := attended_by(value)) is not None:
            return attended_error(exact, copy, self.values[attended])
        if _is_probability(value):
            return probability_error(exact, copy)
        return relative_error(exact, copy, _channel_dim(self.plan, value))


def promised(plan: Plan, anchor: fx.Node) -> float:
    """The error that an anchor's encoding is expected to have."""
    fake = tensor(anchor)
    assert fake is not None, "a coded value is one tensor"
    return plan.anchors[anchor].expected_error(fake)


def _is_probability(value: fx.Node) -> bool:
    """Whether the value is a softmax's output: most of its elements are near 0, and only the large ones matter."""
    return is_softmax(skip_ops(value, ELEMENT_PRESERVING | VIEWS))


def _channel_dim(plan: Plan, value: fx.Node) -> int | None:
    """The dimension of a value's channels: 1 of an image, the last of any other; None for a value of one dimension."""
    fake = tensor(value)
    if fake is None or fake.ndim < 2:
        return None
    encoding = plan.anchors.get(value)
    if encoding is not None and (norm := encoding.batch_norm()) is not None:
        return norm.dim
    return 1 if value in plan.context.facts.images else fake.ndim - 1
