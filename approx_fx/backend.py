"""The torch.compile backend: `torch.compile(model, backend="approx_fx", options={"bits": 4})`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from .config import Config
from .encode.exact import REASONS
from .errors import PassFailed
from .inductor import compile as inductor
from .inductor import patches, switches
from .joint.graph import classify, joint_outputs
from .passes.pipeline import lower, partition
from .passes.state import Partition
from .process.glibc_malloc import keep_freed_memory
from .report import registry
from .report.build import describe, saved_roots
from .report.data import GraphReport, Kept, Row
from .report.partitions import BothPartitions, TorchPartition
from .report.predicted_peak import predicted_peak
from .rounding import counted, steps_of
from .torch_compat import aot_partitioner as aot
from .torch_compat.aot_partitioner import Halves
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
    """Compile a traced module. options: the fields of `Config`; mode: torch.compile's mode.

    Raises ApproxFxError for an unknown option or a value out of range.
    """
    return compile_with(Config.of(options), module, inputs, mode)


def compile_with(
    config: Config,
    module: fx.GraphModule,
    inputs: Sequence[Any],
    mode: str | None = None,
    owners: Sequence[nn.Module | nn.Parameter] = (),
) -> Callable[..., Any]:
    """Compile a traced module with a checked Config, and remember its report under its parameters and `owners`."""
    config = dataclasses.replace(config, mode=mode) if mode is not None else config
    run = Partitioning(config, key=registry.graph_key(module, inputs, config))
    settings = f"{patches.names_in_use(config.patches)}|{sorted(switches.disabled())}"
    partitioner = inductor.Partitioner(f"{config.key()}|{settings}", run)
    devices = {value.device.type for value in inputs if isinstance(value, torch.Tensor)}
    if config.keep_freed_memory and "cpu" in devices:
        keep_freed_memory()
    if config.compiler == "eager":
        compiled = inductor.compile_halves(module, inputs, partitioner)
    else:
        options = {**mode_options(config.mode), **config.inductor}
        on_failure = None if config.bits is None or config.strict else _op_by_op
        compiled = inductor.compile_inductor(module, inputs, partitioner, options, config.patches, on_failure)
    if config.rounding == "stochastic":
        compiled = counted(compiled, steps_of([*inputs, *owners]))
    reports = run.reports or registry.load(run.key)
    for graph in reports:
        registry.register([*inputs, *owners], graph, dataclasses.asdict(config))
    return compiled


def _op_by_op(half: str, error: Exception) -> None:
    lines = str(error).strip().splitlines() or [""]
    why = f"{type(error).__name__}: {lines[0]}"
    log.warning("approx_fx runs a %s op by op, which is slow: Inductor could not compile it. %s", half, why)


@dataclass
class Partitioning:
    """One compile: partitions the joint graphs it is given and collects their reports.

    dry: nothing will be run (explain): leave our ops in the halves, keep no report on disk, and carry out torch's own
    partition too, to predict its peak and to draw it, which a compile need not wait for. seen: then, all there is to
    draw of each graph.
    """

    config: Config
    key: str
    dry: bool = False
    reports: list[GraphReport] = field(default_factory=list)
    seen: list[BothPartitions] = field(default_factory=list)

    def __call__(self, module: fx.GraphModule, joint_inputs: Sequence[object], **options: Any) -> Halves:
        """(forward, backward) of a joint graph; options are those that torch gives to a partitioner."""
        config = self.config
        if config.bits is None and not self.dry:
            return self._torch_partition(module, joint_inputs, options)
        untouched = copy_graph_module(module)
        exact, done = TorchPartition({}), None
        try:
            aot.simplify_joint_graph(module)
            log_graph("approx_fx_joint", module)
            exact = self._saved_by_torch(copy_graph_module(module) if self.dry else module, joint_inputs, options)
            if config.bits is None:
                return self._fall_back(untouched, joint_inputs, options, exact, "")
            done = partition(module, options["num_fwd_outputs"], config, options.get("static_lifetime_input_indices"))
            report = describe(done, exact.bytes, (exact.peak, predicted_peak(done.forward, done.backward)), self.key)
            if report.after > exact.bytes:
                return self._fall_back(untouched, joint_inputs, options, exact, NO_GAIN)
            halves = done.forward, done.backward
            for name, half in zip(("forward", "backward"), halves, strict=True):
                log_graph(f"approx_fx_{name}", half)
            if config.compiler == "inductor" and not self.dry:
                halves = lower(done, config.lowering)
        except Exception as error:
            if config.strict:
                raise
            reason = str(error) if isinstance(error, PassFailed) else f"{type(error).__name__}: {error}"
            log.warning("approx_fx leaves a graph exact, it trains as with torch.compile: %s", reason)
            return self._fall_back(untouched, joint_inputs, options, exact, reason)
        self._record(report, exact, done)
        return halves

    def _torch_partition(
        self, module: fx.GraphModule, joint_inputs: Sequence[object], options: Mapping[str, Any]
    ) -> Halves:
        """torch's own partition of the graph as it came, of which the report is read off."""
        halves = aot.torch_partition(module, joint_inputs, **options)
        outputs = set(joint_outputs(halves[0], options["num_fwd_outputs"])[0])
        backward_inputs = {node.name for node in halves[1].graph.find_nodes(op="placeholder")}
        saved = [node for node in halves[0].graph.nodes if node.name in backward_inputs]
        exact = TorchPartition(saved_roots(saved, outputs))
        self._record(GraphReport(self.key, exact.bytes, exact.bytes, exact.peak, exact.peak, failed=""), exact)
        return halves

    def _fall_back(
        self,
        untouched: fx.GraphModule,
        joint_inputs: Sequence[object],
        options: Mapping[str, Any],
        exact: TorchPartition,
        reason: str,
    ) -> Halves:
        """torch's own partition, and the report of a graph that trains exactly.

        untouched: the graph as it came; reason: why, or '' where the user asked for it.
        """
        self._record(GraphReport(self.key, exact.bytes, exact.bytes, exact.peak, exact.peak, failed=reason), exact)
        return aot.torch_partition(untouched, joint_inputs, **options)

    def _saved_by_torch(
        self, module: fx.GraphModule, joint_inputs: Sequence[object], options: Mapping[str, Any]
    ) -> TorchPartition:
        """What torch's own partition does with a simplified joint graph."""
        outputs = classify(module, options["num_fwd_outputs"]).fwd_outputs
        if not self.dry:
            return TorchPartition(saved_roots(aot.saved_by_torch(module, options["num_fwd_outputs"]), outputs))
        halves = aot.torch_partition(copy_graph_module(module), joint_inputs, **options)
        names = {node.name for node in halves[1].graph.find_nodes(op="placeholder")}
        saved = [node for node in module.graph.nodes if node.name in names]
        return TorchPartition(saved_roots(saved, outputs), predicted_peak(*halves), halves)

    def _record(self, graph: GraphReport, exact: TorchPartition, done: Partition | None = None) -> None:
        self.reports.append(graph)
        if self.dry:
            self.seen.append(BothPartitions(graph, exact, done))
        log.debug("saved bytes %d -> %d, %d tensors coded", graph.before, graph.after, len(graph.tensors))
        for row in graph.tensors:
            log.debug("%s: %d bits, %s, %d -> %d bytes; read by %s in %s", _where(row), row.bits, row.quantizer,
                      row.bytes_before, row.bytes_after, ", ".join(row.consumers), ", ".join(row.used_in))  # fmt: skip
        for kept in graph.kept:
            log.debug("%s: exact, %d bytes: %s", _where(kept), kept.bytes, REASONS[kept.reason])
        if self.config.compiler == "inductor" and not self.dry:
            registry.save(self.key, self.reports)


def _where(row: Row | Kept) -> str:
    return f"{row.name} of {row.module or 'the model'} ({row.op})"
