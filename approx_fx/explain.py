"""`explain` reports what training a model would save, from a trace with fake tensors; `view` draws it as HTML."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from .backend import Partitioning
from .config import Config
from .errors import ApproxFxError
from .inductor import compile as inductor
from .report.data import About, GraphReport
from .report.drawable import Explained
from .report.partitions import BothPartitions
from .report.registry import graph_key
from .torch_compat.dynamo import trace_in_isolation
from .torch_compat.fake_tensors import fake_mode_for_model


def explain(model: nn.Module, *inputs: Any, dtype: torch.dtype | None = None, **options: Any) -> Explained:
    """Report what training `model(*inputs)` saves for backward, under torch.compile and under this pass.

    The model and its inputs are replaced by fake tensors: nothing is run or allocated. dtype: torch.bfloat16 or
    torch.float16 to trace the forward under autocast. options: the fields of `Config`.
    Raises ApproxFxError for an unknown option, and for a model without trainable parameters.
    """
    config = Config.of(options)
    check_trainable(model)
    config.check_names(name for name, _ in model.named_modules())
    graphs: list[GraphReport] = []
    both_partitions: list[BothPartitions] = []

    def collect(module: fx.GraphModule, values: Sequence[Any]) -> Any:
        partitioning = Partitioning(config, graph_key(module, values, config), dry=True)
        partitioner = inductor.Partitioner(config.key(), partitioning)
        compiled = inductor.compile_halves(module, values, partitioner, seeds=config.compiler == "inductor")
        graphs.extend(partitioning.reports)
        both_partitions.extend(partitioning.both_partitions)
        return compiled

    device = next(itertools.chain(model.parameters())).device.type
    with fake_mode_for_model() as mode:
        fakes = {id(t): mode.from_tensor(t) for t in itertools.chain(model.parameters(), model.buffers())}
        fake_model = copy.deepcopy(model, fakes)
        fake_inputs = tree_map(lambda item: mode.from_tensor(item) if isinstance(item, torch.Tensor) else item, inputs)
        autocast = torch.autocast(device, dtype) if dtype is not None else contextlib.nullcontext()
        with autocast, torch.enable_grad():
            trace_in_isolation(fake_model, fake_inputs, collect)
    floats = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    dtype_name = str(dtype or next(floats, torch.float32)).removeprefix("torch.")
    tensors = (*model.parameters(), *model.buffers())
    parameter_bytes = {id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}
    about = About(type(model).__name__, _batch(inputs), dtype_name, sum(parameter_bytes.values()))
    return Explained(tuple(graphs), dataclasses.asdict(config), about, tuple(both_partitions))


def view(
    model: nn.Module, *inputs: Any, path: str | Path | None = None, dtype: torch.dtype | None = None, **options: Any
) -> Explained:
    """Write an HTML file that shows what training `model(*inputs)` saves for backward; return the report.

    Takes the arguments of `explain` and, like it, runs nothing. path: of the file; default approx_fx.html.
    Raises ApproxFxError as `explain` does, and if bokeh is missing.
    """
    report = explain(model, *inputs, dtype=dtype, **options)
    report.save_html(path if path is not None else "approx_fx.html")
    return report


def _batch(inputs: Sequence[Any]) -> int:
    """The length of the first tensor's first dimension; 0 if there is none."""
    sizes = (int(leaf.shape[0]) for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor) and leaf.ndim)
    return next(sizes, 0)


def check_trainable(model: nn.Module) -> None:
    """Raise ApproxFxError unless some parameter requires a gradient."""
    if not isinstance(model, nn.Module):
        raise ApproxFxError(f"a {type(model).__name__} was given where a torch.nn.Module is expected.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        count = sum(1 for _ in model.parameters())
        raise ApproxFxError(
            f"{type(model).__name__} has no trainable parameter ({count} in all, none with requires_grad=True): "
            "nothing is saved for a backward. Call model.requires_grad_() or unfreeze a layer."
        )
