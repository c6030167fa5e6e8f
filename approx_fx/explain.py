"""`explain` reports what training a model would save, from a trace with fake tensors; `view` draws it as HTML."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from .backend import Partitioning, activations_among
from .chunk.deferred import defer_logits, with_deferred
from .config import Config
from .errors import ApproxFxError, did_you_mean
from .inductor import compile as inductor
from .recurrent.replace import replace_recurrent_layers
from .report.data import About, GraphReport
from .report.drawable import Explained
from .report.partitions import BothPartitions
from .report.registry import graph_key
from .torch_compat.dynamo import trace_in_isolation
from .torch_compat.fake_tensors import fake_mode_for_model


def explain(
    model: nn.Module,
    *inputs: Any,
    dtype: torch.dtype | None = None,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Explained:
    """Report what training `model(*inputs, **kwargs)` saves for backward, under torch.compile and under this pass.

    The model and its inputs are replaced by fake tensors: nothing is run or allocated. dtype: torch.bfloat16 or
    torch.float16 to trace the forward under autocast. options: fields of `Config`. kwargs: the model's own keyword
    arguments, and fields of `Config`.
    Raises ApproxFxError for an argument that is neither, for one that could be both, and for a step in which nothing
    needs a gradient.
    """
    settings, keywords = split_arguments(model, options, kwargs)
    config = Config.of(settings)
    check_trainable(model, inputs, keywords)
    config.check_names(name for name, _ in model.named_modules())
    graphs: list[GraphReport] = []
    both_partitions: list[BothPartitions] = []

    def collect(module: fx.GraphModule, values: Sequence[Any]) -> Any:
        key, activations = graph_key(module, values, config), activations_among(values)
        if config.bits is not None:
            replace_recurrent_layers(module)
        deferred = defer_logits(module) if config.bits is not None and config.chunk_loss else []
        partitioning = Partitioning(config, key, dry=True, activations=activations)
        partitioner = inductor.Partitioner(config.key(), partitioning)
        compiled = inductor.compile_halves(module, values, partitioner, seeds=config.compiler == "inductor")
        graphs.extend(partitioning.reports)
        both_partitions.extend(partitioning.both_partitions)
        return with_deferred(compiled, deferred)

    trace_on_fakes(model, inputs, keywords, dtype, collect)
    floats = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    dtype_name = str(dtype or next(floats, torch.float32)).removeprefix("torch.")
    tensors = (*model.parameters(), *model.buffers())
    parameter_bytes = {id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}
    about = About(type(model).__name__, _batch((inputs, keywords)), dtype_name, sum(parameter_bytes.values()))
    return Explained(tuple(graphs), dataclasses.asdict(config), about, both_partitions=tuple(both_partitions))


def trace_on_fakes(
    model: nn.Module,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any],
    dtype: torch.dtype | None,
    compiler: Callable[[fx.GraphModule, Sequence[Any]], Any],
) -> None:
    """Trace a forward of a copy of the model whose tensors are fake; `compiler` compiles each of its graphs.

    dtype: of autocast, None without.
    """
    leaves = [leaf for leaf in tree_leaves((inputs, keywords)) if isinstance(leaf, torch.Tensor)]
    device = next(itertools.chain(model.parameters(), leaves)).device.type
    with fake_mode_for_model() as mode:
        fakes = {id(t): mode.from_tensor(t) for t in itertools.chain(model.parameters(), model.buffers())}
        fake_model = copy.deepcopy(model, fakes)
        fake_inputs, fake_keywords = tree_map(
            lambda item: mode.from_tensor(item) if isinstance(item, torch.Tensor) else item, (inputs, keywords)
        )
        autocast = torch.autocast(device, dtype) if dtype is not None else contextlib.nullcontext()
        with autocast, torch.enable_grad():
            trace_in_isolation(fake_model, fake_inputs, compiler, fake_keywords)


def view(
    model: nn.Module,
    *inputs: Any,
    path: str | Path | None = None,
    dtype: torch.dtype | None = None,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Explained:
    """Write an HTML file that shows what training `model(*inputs, **kwargs)` saves for backward; return the report.

    Takes the arguments of `explain` and, like it, runs nothing. path: of the file; default approx_fx.html.
    Raises ApproxFxError as `explain` does, and if bokeh is missing.
    """
    report = explain(model, *inputs, dtype=dtype, options=options, **kwargs)
    report.save_html(path if path is not None else "approx_fx.html")
    return report


def _batch(inputs: Sequence[Any]) -> int:
    """The length of the first tensor's first dimension; 0 if there is none."""
    sizes = (int(leaf.shape[0]) for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor) and leaf.ndim)
    return next(sizes, 0)


def split_arguments(
    model: nn.Module, options: Mapping[str, Any] | None, kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split keyword arguments into (options, arguments of the model's forward).

    options: given as such; if it is not None, a name that could be both is an argument of the forward.
    Raises ApproxFxError for a name that is neither, and for one that could be both.
    """
    fields = [field.name for field in dataclasses.fields(Config)]
    forward = getattr(model, "forward", model)
    parameters = inspect.signature(forward).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    settings, keywords = dict(options or {}), dict[str, Any]()
    name_of_model = type(model).__name__
    for name, value in kwargs.items():
        if name in fields and name in parameters and options is None:
            raise ApproxFxError(
                f"{name}= is an option and also an argument of {name_of_model}.forward. For the option, give "
                f"options={{{name!r}: ...}}; for the argument, give options={{}} beside it."
            )
        if name in parameters or (takes_any and name not in fields):
            keywords[name] = value
        elif name in fields:
            settings[name] = value
        else:
            raise ApproxFxError(
                f"{name!r} is neither an option nor an argument of {name_of_model}.forward."
                f"{did_you_mean(name, [*fields, *parameters])}"
            )
    return settings, keywords


def check_trainable(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise ApproxFxError unless some parameter or argument requires a gradient."""
    if not isinstance(model, nn.Module):
        raise ApproxFxError(f"a {type(model).__name__} was given where a torch.nn.Module is expected.")
    leaves = [*model.parameters(), *tree_leaves((args, kwargs))]
    if not any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves):
        count = sum(1 for _ in model.parameters())
        raise ApproxFxError(
            f"{type(model).__name__} has no trainable parameter ({count} in all, none with requires_grad=True), and no "
            "argument requires a gradient: nothing is saved for a backward. Call model.requires_grad_() or unfreeze a "
            "layer."
        )
