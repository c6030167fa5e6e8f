"""The torch.compile backend: `torch.compile(model, backend="approx_fx", options={"bits": 4})`."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from .config import Config
from .errors import PassFailed
from .host import inductor, split
from .host.allocator import keep_freed_memory
from .joint.graph import read
from .memory import predicted_peak
from .partitioner import lower, partition
from .report import GraphReport, describe, register, saved_bytes
from .rounding import counted, steps_of

NOTHING_WON = "torch.compile's own partition saves fewer bytes: there is nothing worth coding"

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
    run = Pass(config, key=graph_key(module, inputs, config))
    hook = inductor.Hook(config.key(), run)
    if any(isinstance(value, torch.Tensor) and value.device.type == "cpu" for value in inputs):
        keep_freed_memory()
    if config.compiler == "eager":
        compiled = inductor.compile_eager(module, inputs, hook)
    else:
        compiled = inductor.compile_inductor(module, inputs, hook, mode, save_inputs=config.bits is not None)
    if config.rounding == "stochastic":
        compiled = counted(compiled, steps_of([*inputs, *owners]))
    found = run.reports or _stored(run.key)
    for graph in found:
        register([*inputs, *owners], graph, dataclasses.asdict(config))
    return compiled


@dataclass
class Pass:
    """One compile: partitions the joint graphs it is given and collects their reports.

    dry: nothing will be run (explain): leave our ops in the halves, keep no report on disk, and carry out torch's own
    partition too, to predict its peak, which a compile need not wait for.
    """

    config: Config
    key: str
    dry: bool = False
    reports: list[GraphReport] = field(default_factory=list)

    def __call__(self, module: fx.GraphModule, joint_inputs: Sequence[object], **options: Any) -> inductor.Halves:
        """(forward, backward) of a joint graph; options are those that torch gives to a partitioner."""
        config = self.config
        untouched = _copy(split.simplify(module))
        before = peak = 0
        try:
            before, peak = self._exact_bytes(untouched, joint_inputs, options)
            if config.bits is None:
                self._keep(GraphReport(self.key, before, before, peak, peak))
                return split.torch_partition(untouched, joint_inputs, **options)
            done = partition(module, options["num_fwd_outputs"], config, options.get("static_lifetime_input_indices"))
            found = describe(done, before, (peak, predicted_peak(done.forward, done.backward)), self.key)
            if found.after > before:
                self._keep(GraphReport(self.key, before, before, peak, peak, failed=NOTHING_WON))
                return split.torch_partition(untouched, joint_inputs, **options)
            halves = done.forward, done.backward
            if config.compiler == "inductor" and not self.dry:
                halves = lower(done, config.lowering)
        except Exception as error:
            if config.strict:
                raise
            reason = str(error) if isinstance(error, PassFailed) else f"{type(error).__name__}: {error}"
            log.warning("approx_fx leaves a graph exact, it trains as with torch.compile: %s", reason)
            self._keep(GraphReport(self.key, before, before, peak, peak, failed=reason))
            return split.torch_partition(untouched, joint_inputs, **options)
        self._keep(found)
        return halves

    def _exact_bytes(
        self, module: fx.GraphModule, joint_inputs: Sequence[object], options: Mapping[str, Any]
    ) -> tuple[int, int]:
        """What torch's own partition saves of a simplified joint graph, and its predicted peak (0 unless dry)."""
        saved: list[fx.Node] = []
        peak = 0
        if self.dry:
            theirs = split.torch_partition(_copy(module), joint_inputs, **options)
            names = {node.name for node in theirs[1].graph.find_nodes(op="placeholder")}
            saved, peak = [node for node in module.graph.nodes if node.name in names], predicted_peak(*theirs)
        else:
            saved = split.torch_saved(module, options["num_fwd_outputs"])
        return saved_bytes(saved, read(module, options["num_fwd_outputs"]).fwd_outputs), peak

    def _keep(self, graph: GraphReport) -> None:
        self.reports.append(graph)
        log.debug("saved bytes %d -> %d, %d tensors coded", graph.before, graph.after, len(graph.tensors))
        path = _path(self.key)
        if path is not None and self.config.compiler == "inductor" and not self.dry:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{os.getpid()}.tmp")
            draft.write_text(json.dumps([dataclasses.asdict(report) for report in self.reports]))
            draft.replace(path)


def _copy(module: fx.GraphModule) -> fx.GraphModule:
    return fx.GraphModule(module, copy.deepcopy(module.graph))


def graph_key(module: fx.GraphModule, inputs: Sequence[Any], config: Config) -> str:
    """A key for a traced module's report that can be computed whether or not the compiled graph is cached."""
    digest = hashlib.sha256(f"{torch.__version__}|{config.key()}|{module.code}".encode())
    for node in module.graph.nodes:
        digest.update((node.meta.get("stack_trace") or "").encode())
    for value in inputs:
        if isinstance(value, torch.Tensor):
            shape, strides = tuple(map(str, value.shape)), tuple(map(str, value.stride()))
            digest.update(f"{shape}{strides}{value.dtype}{value.device}{value.requires_grad}".encode())
        else:
            digest.update(str(type(value)).encode())
    digest.update(
        f"{torch.is_grad_enabled()}{torch.is_autocast_enabled('cpu')}{torch.is_autocast_enabled('cuda')}".encode()
    )
    return digest.hexdigest()


def _path(key: str) -> Path | None:
    root = inductor.cache_dir()
    return root / "approx_fx" / f"{key}.json" if root is not None else None


def _stored(key: str) -> list[GraphReport]:
    """The reports that an earlier process left for the same module, where its compiled graph came from the cache."""
    path = _path(key)
    if path is None or not path.exists():
        return []
    return [GraphReport.from_json(item) for item in json.loads(path.read_text())]
