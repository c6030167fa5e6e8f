"""The torch.compile backend: `torch.compile(model, backend="approx_fx", options={"bits": 4})`."""

from __future__ import annotations

import dataclasses
import logging
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from .chunk.deferred import defer_logits, with_deferred
from .config import Config
from .encode.exact import REASONS
from .errors import PassFailed
from .inductor import compile as inductor
from .inductor import patches, switches
from .measure.first_step import Compiled, Planned, checked
from .measure.smaller_peak import no_larger
from .passes.pipeline import lower, partition
from .passes.state import Partition
from .peak.generate import generate_code
from .peak.timeline import predict
from .plan.decisions import NONE, Decisions
from .process.glibc_malloc import keep_freed_memory
from .recurrent.replace import replace_recurrent_layers
from .report import registry
from .report.build import describe, saved_roots
from .report.data import GraphReport, Kept, Row
from .report.loss_peak import partition_for_peak
from .report.partitions import BothPartitions, TorchPartition
from .report.predicted_peak import predicted_peak
from .report.runs import CompiledGraph, noted
from .rounding import count_steps
from .torch_compat import aot_partitioner as aot
from .torch_compat.aot_partitioner import Halves
from .torch_compat.compiled_graph import Hook
from .torch_compat.dynamo import TracedContext
from .torch_compat.inductor_options import mode_options
from .torch_compat.lazy_graph_module import copy_graph_module
from .torch_compat.structured_trace import log_graph

NO_GAIN = "torch.compile's own partition saves fewer bytes: there is nothing worth coding"

log = logging.getLogger(__name__)


def backend(
    module: fx.GraphModule,
    inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compile a module that Dynamo traced; the entry point that `torch.compile` calls.

    options: the fields of `Config`; mode: the mode given to torch.compile.
    Raises ApproxFxError for an unknown option or a value out of range.
    """
    return compile_with(Config.of(options), module, inputs, mode)


def compile_with(
    config: Config,
    module: fx.GraphModule,
    inputs: Sequence[Any],
    mode: str | None = None,
    owners: Sequence[nn.Module] = (),
) -> Callable[..., Any]:
    """Compile a traced module with a validated Config. owners: the modules that were converted by it."""
    config = dataclasses.replace(config, mode=mode) if mode is not None else config
    key = registry.graph_key(module, inputs, config)
    references = [weakref.ref(owner) for owner in owners]
    graph = CompiledGraph(dataclasses.asdict(config))
    activations, has_backward = activations_among(inputs), _has_backward(inputs)
    if has_backward and config.bits is not None:
        replace_recurrent_layers(module)
    context = TracedContext.current()
    untouched = copy_graph_module(module)
    deferred = defer_logits(module) if has_backward and config.bits is not None and config.chunk_loss else []

    def compile_graph(
        values: Sequence[Any], decisions: Decisions, before_forward: Hook | None, unique: bool = False
    ) -> Compiled:
        partitioning = Partitioning(config, key, decisions, activations=activations)
        call = _compile(partitioning, module, values, before_forward, unique)
        graph.reports = partitioning.reports or registry.load(key)
        is_coded = any(not report.failed for report in graph.reports) or (not graph.reports and has_backward)
        was_cached = not partitioning.reports and is_coded
        return Compiled(call, partitioning.planned, was_cached)

    def alive() -> list[nn.Module]:
        return [owner for reference in references if (owner := reference()) is not None]

    def peak(values: Sequence[Any], decisions: Decisions | None) -> int:
        """The bytes at the peak of this graph's step by some decisions, or by torch.compile if they are None."""
        options, values = _inductor_options(config), context.without_data(values)
        with context.renewed().entered():
            if decisions is None:
                return predict(generate_code(untouched, values, options=options)[1]).peak.live
            partitioning = Partitioning(config, key, decisions, activations=activations, to_disk=False)
            return predict(code_by(partitioning, module, values)[1]).peak.live

    compiles = no_larger(compile_graph, peak, key) if config.compiler == "inductor" else compile_graph
    compiled = noted(checked(compiles, inputs, config, graph, key), graph, alive)
    compiled = with_deferred(compiled, deferred)
    return count_steps(compiled, alive) if config.rounding == "stochastic" else compiled


def _compile(
    partitioning: Partitioning,
    module: fx.GraphModule,
    inputs: Sequence[Any],
    before_forward: Hook | None,
    unique: bool,
) -> Callable[..., Any]:
    """Compile a traced module, its joint graph split by `partitioning`. unique: not from a cache."""
    config = partitioning.config
    decided = f"{partitioning.activations}|{partitioning.decisions.key()}"
    settings = f"{patches.names_in_use(config.patches)}|{sorted(switches.disabled())}|{decided}"
    cache_key = f"{config.key()}|{settings}" + (f"|{uuid.uuid4()}" if unique else "")
    partitioner = inductor.Partitioner(cache_key, partitioning)
    devices = {value.device.type for value in inputs if isinstance(value, torch.Tensor)}
    if config.keep_freed_memory and "cpu" in devices:
        keep_freed_memory()
    if config.compiler == "eager":
        return inductor.compile_halves(module, inputs, partitioner, before_forward=before_forward, seeds=False)
    on_failure = None if config.bits is None or config.strict else _op_by_op
    return inductor.compile_inductor(
        module,
        inputs,
        partitioner,
        _inductor_options(config),
        config.patches,
        on_failure,
        before_forward,
        partitioning.decisions.low_peak,
    )


def code_by(
    partitioning: Partitioning, module: fx.GraphModule, inputs: Sequence[Any]
) -> tuple[Callable[..., Any], list[str]]:
    """Generate Inductor's code for a traced module, its joint graph split by `partitioning`, and compile nothing.

    Returns (a function that returns fake results of the forward, [the forward's source, the backward's source]).
    """
    config, low_peak = partitioning.config, partitioning.decisions.low_peak
    partitioner = inductor.Partitioner(config.key(), partitioning)
    return generate_code(module, inputs, partitioner, _inductor_options(config), config.patches, low_peak)


def _inductor_options(config: Config) -> dict[str, Any]:
    return {**mode_options(config.mode), **config.inductor}


def _op_by_op(half: str, error: Exception) -> None:
    lines = str(error).strip().splitlines() or [""]
    reason = f"{type(error).__name__}: {lines[0]}"
    log.warning("approx_fx runs a %s op by op, which is slow: Inductor could not compile it. %s", half, reason)


@dataclass
class Partitioning:
    """The partitioner of one compile: splits the joint graphs it is given and collects their reports.

    dry: the halves will not be run (`explain`). This package's ops stay in them, no report goes to disk, and torch's
    own partition is carried out too, so that its peak can be predicted and drawn; a real compile skips that.
    both_partitions: on a dry run, each graph under torch's partition and under this one. planned: the last graph that
    was split by a plan, to be measured. decisions: what was decided after measuring an earlier plan. activations:
    indices of the graph's inputs that another graph computed. to_disk: reports go to the cache's folder, too.
    """

    config: Config
    key: str
    decisions: Decisions = NONE
    dry: bool = False
    reports: list[GraphReport] = field(default_factory=list)
    both_partitions: list[BothPartitions] = field(default_factory=list)
    planned: Planned | None = None
    activations: Sequence[int] = ()
    to_disk: bool = True

    def __call__(self, module: fx.GraphModule, joint_inputs: Sequence[object], **options: Any) -> Halves:
        """Return (forward, backward) of a joint graph; `options` are those that torch gives to a partitioner."""
        config = self.config
        if config.bits is None and not self.dry:
            return self._torch_partition(module, joint_inputs, options)
        untouched = copy_graph_module(module)
        by_torch, partitioned = TorchPartition({}), None
        try:
            aot.simplify_joint_graph(module)
            log_graph("approx_fx_joint", module)
            by_torch = self._saved_by_torch(copy_graph_module(module) if self.dry else module, joint_inputs, options)
            if config.bits is None or self.decisions.exact:
                return self._fall_back(untouched, joint_inputs, options, by_torch, self.decisions.exact)
            count, static_inputs = options["num_fwd_outputs"], options.get("static_lifetime_input_indices")

            def split(graph: fx.GraphModule, config: Config) -> Partition:
                return partition(graph, count, config, static_inputs, self.decisions, self.activations)

            partitioned, peak = partition_for_peak(module, config, split)
            report = describe(partitioned, by_torch.bytes, (by_torch.peak, peak), self.key)
            if report.after > by_torch.bytes:
                return self._fall_back(untouched, joint_inputs, options, by_torch, NO_GAIN)
            halves = partitioned.forward, partitioned.backward
            for name, half in zip(("forward", "backward"), halves, strict=True):
                log_graph(f"approx_fx_{name}", half)
            if config.compiler == "inductor" and not self.dry:
                halves = lower(partitioned, config.lowering)
        except Exception as error:
            if config.strict:
                raise
            reason = str(error) if isinstance(error, PassFailed) else f"{type(error).__name__}: {error}"
            log.warning("approx_fx leaves a graph exact, it trains as with torch.compile: %s", reason)
            return self._fall_back(untouched, joint_inputs, options, by_torch, reason)
        self._record(report, by_torch, partitioned)
        self.planned = Planned(untouched, options, partitioned.plan, by_torch.bytes, self.activations, peak)
        return halves

    def _torch_partition(
        self, module: fx.GraphModule, joint_inputs: Sequence[object], options: Mapping[str, Any]
    ) -> Halves:
        """Split the unchanged graph by torch's own partitioner and report what the halves save (`bits=None`)."""
        halves = aot.torch_partition(module, joint_inputs, **options)
        backward_inputs = {node.name for node in halves[1].graph.find_nodes(op="placeholder")}
        saved = [node for node in halves[0].graph.nodes if node.name in backward_inputs]
        by_torch = TorchPartition(saved_roots(saved, self._computed_inputs(halves[0])))
        self._record_exact(by_torch, "")
        return halves

    def _fall_back(
        self,
        untouched: fx.GraphModule,
        joint_inputs: Sequence[object],
        options: Mapping[str, Any],
        by_torch: TorchPartition,
        reason: str,
    ) -> Halves:
        """Split by torch's own partitioner and report a graph that trains exactly.

        untouched: a copy of the joint graph made before any pass; reason: why this pass is not used, '' if by request.
        """
        self._record_exact(by_torch, reason)
        return aot.torch_partition(untouched, joint_inputs, **options)

    def _saved_by_torch(
        self, module: fx.GraphModule, joint_inputs: Sequence[object], options: Mapping[str, Any]
    ) -> TorchPartition:
        """The values that torch's own partition of a simplified joint graph saves; its halves and peak on a dry run."""
        activations = self._computed_inputs(module)
        if not self.dry:
            return TorchPartition(saved_roots(aot.saved_by_torch(module, options["num_fwd_outputs"]), activations))
        halves = aot.torch_partition(copy_graph_module(module), joint_inputs, **options)
        names = {node.name for node in halves[1].graph.find_nodes(op="placeholder")}
        saved = [node for node in module.graph.nodes if node.name in names]
        peak = predicted_peak(*halves, {node.name for node in activations})
        return TorchPartition(saved_roots(saved, activations), peak, halves)

    def _computed_inputs(self, module: fx.GraphModule) -> set[fx.Node]:
        """The placeholders of a joint graph or a forward that another graph computed."""
        placeholders = module.graph.find_nodes(op="placeholder")
        return {node for node in placeholders if aot.input_index(node) in set(self.activations)}

    def _record_exact(self, by_torch: TorchPartition, reason: str) -> None:
        size, peak = by_torch.bytes, by_torch.peak
        self._record(GraphReport(self.key, size, size, peak, peak, failed=reason), by_torch)

    def _record(self, graph: GraphReport, by_torch: TorchPartition, partitioned: Partition | None = None) -> None:
        self.reports.append(graph)
        if self.dry:
            self.both_partitions.append(BothPartitions(graph, by_torch, partitioned))
        log.debug("saved bytes %d -> %d, %d tensors coded", graph.before, graph.after, len(graph.tensors))
        for row in graph.tensors:
            log.debug("%s: %d bits, %s, %d -> %d bytes; read by %s in %s", _where(row), row.bits, row.quantizer,
                      row.bytes_before, row.bytes_after, ", ".join(row.consumers), ", ".join(row.used_in))  # fmt: skip
        for kept in graph.kept:
            log.debug("%s: exact, %d bytes: %s", _where(kept), kept.bytes, REASONS[kept.reason])
        if self.config.compiler == "inductor" and self.to_disk and not self.dry:
            registry.save(self.key, self.reports)


def activations_among(inputs: Sequence[Any]) -> tuple[int, ...]:
    """The indices of a graph's inputs that another graph computed, with a gradient.

    Nothing but this graph need keep such an input until the backward; the caller's own tensors are alive in any case.
    """
    tensors = ((index, value) for index, value in enumerate(inputs) if isinstance(value, torch.Tensor))
    return tuple(index for index, value in tensors if value.requires_grad and not value.is_leaf)


def _has_backward(inputs: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(i, torch.Tensor) and i.requires_grad for i in inputs)


def _where(row: Row | Kept) -> str:
    return f"{row.name} of {row.module or 'the model'} ({row.op})"
