"""Measures a compiled graph on the data of its first call, and compiles it once more where codes are too far off.

The measuring happens when the forward is about to run, on its real inputs. If the plan has to change, that run is
abandoned before anything was computed or written to, the graph is compiled by the new plan, and the call is made again:
the first step's gradients are those of the new plan.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import fx

from ..config import Config
from ..encode.better import WIDEST
from ..joint.fake_values import tensor
from ..joint.graph import classify
from ..plan.decisions import NONE, Decisions
from ..plan.plan import Plan, plan
from ..report import registry
from ..report.data import MeasuredValue
from ..report.runs import CompiledGraph
from ..torch_compat import aot_partitioner as aot
from ..torch_compat.compiled_graph import Hook
from ..torch_compat.dynamo import TracedContext
from ..torch_compat.lazy_graph_module import copy_graph_module
from .decide import decide
from .gradients import MOST_BYTES, Gradients, compare_gradients
from .sentences import rows, sentence_of_gradients, sentence_of_small_gradients, sentences
from .walk import Measured, measure

# Plans measured one after another, in one call; values that still fail are then kept exact.
MAX_PLANS = 5
# Widths that a small graph's codes get if its gradients are not good, first the narrowest.
WIDER = (5, 6, WIDEST)

log = logging.getLogger("approx_fx")


@dataclass(frozen=True)
class Planned:
    """A graph as it was planned when it was compiled. joint: a copy from before any pass; options: the partitioner's.

    plan: with the nodes of the graph that was split. exact_bytes: what torch's own partition saves. activations:
    indices of inputs that another graph computed. peak: predicted bytes at the step's peak, before any fusion.
    """

    joint: fx.GraphModule
    options: dict[str, Any]
    plan: Plan
    exact_bytes: int
    activations: Sequence[int] = ()
    peak: int = 0

    @property
    def returns_scalars(self) -> bool:
        """True if every result of the graph that has a gradient is a scalar, as a loss is.

        The backward of such a graph usually runs right after its forward, so that its own peak is that of the step.
        """
        placeholders = self.joint.graph.find_nodes(op="placeholder")
        tangents = [fake for node in placeholders if aot.is_tangent(node) and (fake := tensor(node)) is not None]
        return all(fake.numel() == 1 for fake in tangents)

    def again(self, config: Config, decisions: Decisions) -> Plan:
        """A new plan of the same graph."""
        joint = aot.simplify_joint_graph(copy_graph_module(self.joint))
        static_inputs = self.options.get("static_lifetime_input_indices") or ()
        count = self.options["num_fwd_outputs"]
        return plan(classify(joint, count, static_inputs, self.activations), config, decisions)

    def gradients(self, config: Config, decisions: Decisions, inputs: Sequence[Any]) -> Gradients | None:
        """The gradients by a new plan compared with the exact ones. inputs: of the forward half."""
        return compare_gradients(self.joint, self.options, config, decisions, inputs, self.activations)


class Compile(Protocol):
    """Compiles one traced graph."""

    def __call__(
        self, values: Sequence[Any], decisions: Decisions, before_forward: Hook | None, unique: bool = False
    ) -> Compiled:
        """Compile by these decisions. values: the graph's inputs, real or fake. unique: not from a cache."""


@dataclass(frozen=True)
class Compiled:
    """call: the compiled function. planned: None for a graph without codes, and for one that came from a cache.

    was_cached: it came from a cache, and is or may be one with codes.
    """

    call: Callable[..., Any]
    planned: Planned | None
    was_cached: bool = False


class _PlanChanges(Exception):
    """Abandons a run of the forward: the graph has to be compiled by other decisions."""

    def __init__(self, decisions: Decisions) -> None:
        super().__init__("the graph has to be compiled again")
        self.decisions = decisions


def checked(
    compile_graph: Compile, inputs: Sequence[Any], config: Config, graph: CompiledGraph, key: str
) -> Callable[..., Any]:
    """Compile a graph whose plan is measured as `config.check` says; return a function with the graph's signature.

    inputs: those that the graph is compiled for, not kept. graph: gets what is measured. key: of the graph, under which
    decisions and reports are stored for later processes: a warm start decides as the cold one did, and does not measure
    again.
    """
    if config.check is None or config.bits is None:
        return compile_graph(inputs, NONE, None).call
    return _Checked(compile_graph, config, graph, key).start(inputs)


class _Checked:
    """A compiled graph that is measured. due: the number of the call that is to be measured, None for no further call.

    calls: runs of the forward so far. values: the graph's inputs without data, to compile it for again.
    """

    def __init__(self, compile_graph: Compile, config: Config, graph: CompiledGraph, key: str) -> None:
        self.compile_graph, self.config, self.graph, self.key = compile_graph, config, graph, key
        self.persists = config.compiler == "inductor"  # else nothing compiled is cached either
        stored = registry.load_decisions(key) if self.persists else None
        self.decisions = NONE if stored is None else Decisions.from_json(stored["decisions"])
        self.rows = [] if stored is None else [MeasuredValue(**row) for row in stored["values"]]
        if self.decisions.exact:
            log.warning("approx_fx leaves a graph exact, it trains as with torch.compile: %s", self.decisions.exact)
        self.calls = 0
        self.due = self._next_after(0) if stored is not None else 0
        self.context = TracedContext.current()

    def start(self, inputs: Sequence[Any]) -> Callable[..., Any]:
        """Compile; the result measures if there is anything to measure."""
        self.compiled = self.compile_graph(inputs, self.decisions, self.before_forward)
        if self.compiled.was_cached and self.due == 0:  # the process that compiled it did not come to measure it
            self.compiled = self.compile_graph(inputs, self.decisions, self.before_forward, unique=True)
        if self.due != 0:
            self.graph.set_measured(self.rows)
        if self.compiled.planned is None or self.due is None:
            return self.compiled.call
        self.values = self.context.without_data(inputs)
        return self

    def __call__(self, *args: Any) -> Any:
        """Run the graph."""
        while True:
            try:
                return self.compiled.call(*args)
            except _PlanChanges as change:
                self.decisions = change.decisions
                with self.context.entered():
                    self.compiled = self.compile_graph(self.values, self.decisions, self.before_forward)
                self._finish()

    def before_forward(self, inputs: Sequence[Any]) -> None:
        """Measure if it is time to. inputs: of the forward half.

        Raises:
            _PlanChanges: the plan has to change.
        """
        planned = self.compiled.planned
        if planned is not None and self.calls == self.due:
            self.due = self._next_after(self.calls)
            decisions = self._measure(planned, inputs)
            if decisions.key() != self.decisions.key():
                raise _PlanChanges(decisions)
            self._finish()
        self.calls += 1

    def _next_after(self, call: int) -> int | None:
        return call + self.config.check if isinstance(self.config.check, int) else None

    def _finish(self) -> None:
        """Put what was measured into the report of the plan that is in use."""
        self.graph.set_measured(self.rows)
        if self.persists:
            registry.save_measured(self.key, self.rows)
            values = [dataclasses.asdict(row) for row in self.rows]
            registry.save_decisions(self.key, {"decisions": self.decisions.to_json(), "values": values})
        if self.due is None:
            self.compiled = Compiled(self.compiled.call, None)  # nothing will be measured again: let the graph go
            self.values = []

    def _measure(self, planned: Planned, inputs: Sequence[Any]) -> Decisions:
        """The decisions after measuring; those in use if measuring fails, which is logged, or raised if `strict`."""
        try:
            return self._measure_plans(planned, inputs)
        except Exception as error:
            if self.config.strict:
                raise
            log.warning("approx_fx could not measure a graph: %s: %s", type(error).__name__, error)
            return self.decisions

    def _measure_plans(self, planned: Planned, inputs: Sequence[Any]) -> Decisions:
        """Measure plan after plan until none of its codes is too far off; returns the decisions of the last."""
        decisions, current = self.decisions, planned.plan
        failures: dict[str, Measured] = {}
        for count in range(MAX_PLANS):
            measured = measure(current, inputs)
            for result in measured:
                if result.offends:
                    failures.setdefault(result.value.name, result)
            if not any(result.offends for result in measured):
                break
            following = decide(current, measured, decisions, last=count == MAX_PLANS - 1)
            if following.key() == decisions.key():  # nothing better is known
                following = decide(current, measured, decisions, last=True)
            decisions = following
            current = planned.again(self.config, decisions)
        if planned.exact_bytes <= MOST_BYTES:
            decisions, current = self._check_gradients(planned, current, decisions, inputs)
            if decisions.exact:
                log.warning("approx_fx leaves a graph exact, it trains as with torch.compile: %s", decisions.exact)
                return decisions
        values = rows(measured, failures, planned.plan, current)
        for sentence in sentences(values):
            log.warning("%s", sentence)
        self.rows = values
        return decisions

    def _check_gradients(
        self, planned: Planned, current: Plan, decisions: Decisions, inputs: Sequence[Any]
    ) -> tuple[Decisions, Plan]:
        """The decisions for a small graph whose values are right: more bits, or exact, if its gradients are off.

        A gradient that is off but small beside others changes nothing; a sentence names it. current: the plan by
        `decisions`; returned with the decisions is the plan by those.
        """
        widths = self.config.bits.values() if isinstance(self.config.bits, Mapping) else [self.config.bits]
        bits = min((width for width in widths if width is not None), default=WIDEST)
        gradients = planned.gradients(self.config, decisions, inputs)
        if gradients is not None and not gradients.are_good(bits):
            wider, better = self._wider(planned, bits, decisions, inputs)
            if better is not None and not better.are_off(bits) and better.whole > gradients.whole:
                log.warning(
                    "approx_fx stores a graph in %d bits: %s", wider.least_bits, sentence_of_gradients(gradients)
                )
                decisions, gradients, current = wider, better, planned.again(self.config, wider)
            elif gradients.are_off(bits):
                return Decisions(exact=sentence_of_gradients(gradients)), current
        if gradients is not None and (off := gradients.small_ones_off(bits)):
            log.warning("%s", sentence_of_small_gradients(off))
        return decisions, current

    def _wider(
        self, planned: Planned, bits: int, decisions: Decisions, inputs: Sequence[Any]
    ) -> tuple[Decisions, Gradients | None]:
        """The decisions with the first of some larger widths whose gradients are good, or with the widest."""
        wider, better = decisions, None
        for width in (width for width in WIDER if width > bits):
            wider = dataclasses.replace(decisions, least_bits=width)
            better = planned.gradients(self.config, wider, inputs)
            if better is not None and better.are_good(bits):
                break
        return wider, better
