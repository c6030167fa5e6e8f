"""Runs a planned forward once more, op by op, and compares what the backward will read with what it would read exactly.

Nothing is kept: a code is decoded where it was made, a copy is dropped behind the last copy that is recomputed from
it, a value behind its last reader. So the walk needs less memory than the step itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ..encode.base import Encoding
from ..joint.fake_values import shape, tensor
from ..joint.op_table import ATTENTION, ELEMENT_PRESERVING, VIEWS, name_of, skip_ops
from ..joint.row_norms import RowNorm
from ..joint.value_kinds import is_softmax
from ..plan.plan import Plan
from ..torch_compat.dispatch_modes import undispatched
from ..torch_compat.fake_tensors import symbols_of
from .errors import attended_error, probability_error, relative_error, score_error
from .real_values import RealBuild
from .sampling import divided_arguments, divided_fake, first_part, parts

# Namespaces of ops that other processes wait for: they are not run a second time.
COLLECTIVES = frozenset(["_c10d_functional", "_c10d_functional_autograd", "c10d", "c10d_functional", "_dtensor"])


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
    with torch.no_grad(), torch.random.fork_rng(list(devices)), undispatched():
        return [result for node in walk.order for result in walk.visit(node)]


@dataclass
class _Walk:
    """The state of the walk.

    order: the nodes to run. copies_at: node -> the copies that can be made behind it. values, copies: what is alive.
    values_until, copies_until: node -> the values, or copies, that are read for the last time there. parts: see
    `sampling.parts`. scores_at: node -> the attention whose query and key have copies behind it.
    """

    plan: Plan
    order: list[fx.Node]
    copies_at: dict[fx.Node, list[fx.Node]]
    values_until: dict[fx.Node, list[fx.Node]]
    copies_until: dict[fx.Node, list[fx.Node]]
    build: RealBuild
    parts: dict[fx.Node, int]
    scores_at: dict[fx.Node, fx.Node] = field(default_factory=dict)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    copies: dict[fx.Node, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, inputs: Sequence[Any]) -> _Walk:
        """Schedule the walk and bind the inputs."""
        joint = plan.joint
        runnable = _runnable(plan)
        copied = [value for value in _approximate(plan) if value in runnable]
        ready: dict[fx.Node, fx.Node] = {}
        made: list[fx.Node] = []
        for value in sorted(copied, key=joint.order.__getitem__):
            read = _read_for_copy(plan, value)
            if any(node not in runnable for node in read) or any(
                source not in ready for source in _copied_sources(plan, value)
            ):
                continue
            places = [value, *read, *(ready[source] for source in _copied_sources(plan, value))]
            ready[value] = max(places, key=joint.order.__getitem__)
            made.append(value)
        attentions = [node for node in joint.order if _reads_copies(node, joint.backward, ready) and node in runnable]
        operands: list[Any] = [source for node in attentions for source in node.args[:2]]
        needed = _needed(plan, made, operands)
        order = [node for node in joint.order if node in needed]
        build = RealBuild({}, symbols_of(joint.module.graph, inputs))
        part_counts = parts(made, {value: _copied_sources(plan, value) for value in made})
        walk = cls(plan, order, {}, {}, {}, build, part_counts)
        last_read: dict[fx.Node, fx.Node] = {node: node for node in order}
        for node in order:
            for source in node.all_input_nodes:
                last_read[source] = node
        last_copied = dict(ready)
        for value in made:
            walk.copies_at.setdefault(ready[value], []).append(value)
            for node in [value, *_read_for_copy(plan, value)]:
                last_read[node] = max(last_read[node], ready[value], key=joint.order.__getitem__)
            for source in _copied_sources(plan, value):
                last_copied[source] = max(last_copied[source], ready[value], key=joint.order.__getitem__)
        for node in attentions:
            operands = list(node.args[:2])
            place = max((ready.get(source, source) for source in operands), key=joint.order.__getitem__)
            walk.scores_at[place] = node
            for source in operands:
                last_read[source] = max(last_read[source], place, key=joint.order.__getitem__)
                if source in last_copied:
                    last_copied[source] = max(last_copied[source], place, key=joint.order.__getitem__)
        for node, place in last_read.items():
            walk.values_until.setdefault(place, []).append(node)
        for node, place in last_copied.items():
            walk.copies_until.setdefault(place, []).append(node)
        placeholders = [node for node in joint.module.graph.find_nodes(op="placeholder") if node in joint.inputs]
        walk.values.update((node, value) for node, value in zip(placeholders, inputs, strict=True))
        walk.build = RealBuild(walk.values, walk.build.sizes)
        return walk

    def visit(self, node: fx.Node) -> Iterator[Measured]:
        """Run one node, then make and measure the copies that can be made behind it, then drop what is not read."""
        if node.op == "get_attr":
            self.values[node] = _attribute(self.plan.joint.module, str(node.target))
        elif node.op == "call_function":
            args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), self.build.value_of)
            self.values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        for value in self.copies_at.get(node, []):
            copy = self._copy(value)
            self.copies[value] = copy
            is_read = value in self.plan.anchors or value in self.plan.joint.demands
            if is_read and isinstance(copy, torch.Tensor) and copy.is_floating_point():
                yield self._measured(value, copy)
        if (scores := self.scores_at.get(node)) is not None:
            yield self._scores(scores)
        for value in self.copies_until.get(node, []):
            self.copies.pop(value, None)
        for value in self.values_until.get(node, []):
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
        sources = [value] if encoding is not None else anchors_of(plan, value)
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
        error = score_error(exact, copies)
        anchors = dict.fromkeys(anchor for node in nodes for anchor in anchors_of(self.plan, node))
        bits = min((self.plan.anchors[anchor].bits for anchor in anchors), default=8)
        return Measured(nodes[0], error, allowed_error(bits, 0.0), widen=tuple(nodes))

    def _error(self, value: fx.Node, copy: Any) -> float:
        exact = first_part(self.values[value], self.parts[value])
        encoding = self.plan.anchors.get(value)
        norm = encoding.batch_norm() if encoding is not None else None
        row_norm = _row_norm(self.plan, value)
        if norm is not None:  # its reader subtracts the mean
            mean = self.values[norm.mean].reshape([-1 if dim == norm.dim else 1 for dim in range(exact.ndim)])
            exact, copy = exact.float() - mean, copy.float() - mean
        elif row_norm is not None:  # and divides each row by its own deviation
            statistics = [node for node in (row_norm.mean, row_norm.rstd) if node is not None]
            rows, count = len(self.values[value]), self.parts[value]
            items = [self.values[node] for node in statistics]
            *mean, rstd = (first_part(item, count) if len(item) == rows else item for item in items)
            exact, copy = ((item.float() - sum(mean)) * rstd for item in (exact, copy))
        elif (attended := _attended(value)) is not None:
            return attended_error(exact, copy, self.values[attended])
        if _is_probability(value):
            return probability_error(exact, copy)
        return relative_error(exact, copy, _channel_dim(self.plan, value))


def _reads_copies(node: fx.Node, backward: frozenset[fx.Node], ready: Mapping[fx.Node, fx.Node]) -> bool:
    """Whether the node is an attention in the forward whose query or key is approximate in the backward."""
    return name_of(node) in ATTENTION and node not in backward and any(source in ready for source in node.args[:2])


def _attended(value: fx.Node) -> fx.Node | None:
    """The value operand of the attention that reads the value as such, or whose output it is; None without one."""
    if name_of(value) == "getitem":
        attention = value.all_input_nodes[0]
        return attention.args[2] if value.args[1] == 0 and name_of(attention) in ATTENTION else None  # type: ignore[return-value]
    return value if any(name_of(user) in ATTENTION and user.args[2] is value for user in value.users) else None


def promised(plan: Plan, anchor: fx.Node) -> float:
    """The error that an anchor's encoding is expected to have."""
    fake = tensor(anchor)
    assert fake is not None, "a coded value is one tensor"
    return plan.anchors[anchor].expected_error(fake)


def anchors_of(plan: Plan, value: fx.Node) -> list[fx.Node]:
    """The coded anchors that a value is recomputed from, in graph order."""
    visited: set[fx.Node] = set()
    stack, anchors = [value], []
    while stack:
        node = stack.pop()
        if node in visited:
            continue
        visited.add(node)
        if node in plan.anchors:
            anchors += [node] if plan.anchors[node].coded else []
        elif node not in plan.carried:
            stack.extend(plan.recompute.get(node, ()))
    return sorted(anchors, key=plan.joint.order.__getitem__)


def _approximate(plan: Plan) -> list[fx.Node]:
    """The approximate values that the backward demands, and all that they are recomputed from."""
    stack = [value for value in plan.joint.demands if _is_approximate(plan, value)]
    approximate: set[fx.Node] = set()
    while stack:
        value = stack.pop()
        if value not in approximate:
            approximate.add(value)
            stack.extend(_copied_sources(plan, value))
    return list(approximate)


def _copied_sources(plan: Plan, value: fx.Node) -> list[fx.Node]:
    """The approximate values that a recomputed value's copy reads."""
    if value in plan.anchors:
        return []
    return [source for source in plan.recompute[value] if _is_approximate(plan, source)]


def _is_approximate(plan: Plan, value: fx.Node) -> bool:
    if value in plan.anchors:
        return plan.anchors[value].coded
    return value not in plan.carried and bool(anchors_of(plan, value))


def _read_for_copy(plan: Plan, value: fx.Node) -> list[fx.Node]:
    """The exact values that making and comparing a copy reads, beside the value itself."""
    norm = _row_norm(plan, value)
    statistics = [node for node in (norm.mean, norm.rstd) if node is not None] if norm is not None else []
    if (attended := _attended(value)) is not None:
        statistics.append(attended)
    if value in plan.anchors:
        return [*plan.anchors[value].inputs(value), *statistics]
    masks = [plan.relu_masks[value].node] if value in plan.relu_masks else []
    exact = [source for source in value.all_input_nodes if not _is_approximate(plan, source)]
    return [*exact, *masks, *statistics]


def _row_norm(plan: Plan, value: fx.Node) -> RowNorm | None:
    """The norm over rows that reads the value in this shape; None if there is none."""
    norm = plan.context.row_norms.by_input.get(value)
    return norm if norm is not None and shape(norm.x) == shape(value) else None


def _runnable(plan: Plan) -> set[fx.Node]:
    """The nodes outside the backward that can be run once more without any effect on others."""
    runnable: set[fx.Node] = set()
    for node in plan.joint.order:
        if node in plan.joint.backward or node.op == "output":
            continue
        if node.op == "placeholder" and node not in plan.joint.inputs:
            continue
        target: Any = node.target
        if node.op == "call_function":
            schema = getattr(target, "_schema", None)
            if isinstance(target, torch._ops.HigherOrderOperator) or getattr(schema, "is_mutable", False):
                continue
            if getattr(target, "namespace", "") in COLLECTIVES:
                continue
        if all(source in runnable for source in node.all_input_nodes):
            runnable.add(node)
    return runnable


def _needed(plan: Plan, made: list[fx.Node], operands: list[fx.Node]) -> set[fx.Node]:
    """The nodes to run, so that all copies in `made` can be made and measured, and the scores of `operands`."""
    stack = [*operands, *(node for value in made for node in (value, *_read_for_copy(plan, value)))]
    needed: set[fx.Node] = set()
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(node.all_input_nodes)
    return needed


def _attribute(module: fx.GraphModule, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _is_probability(value: fx.Node) -> bool:
    """Whether the value is a softmax's output: most of its elements are near 0, and only the large ones matter."""
    return is_softmax(skip_ops(value, ELEMENT_PRESERVING | VIEWS))


def _channel_dim(plan: Plan, value: fx.Node) -> int | None:
    """The dimension of a value's channels: 1 of an image, the last of any other; None for a softmax's output."""
    fake = tensor(value)
    if fake is None or fake.ndim < 2 or _is_probability(value):
        return None
    encoding = plan.anchors.get(value)
    if encoding is not None and (norm := encoding.batch_norm()) is not None:
        return norm.dim
    return 1 if value in plan.context.facts.images else fake.ndim - 1
