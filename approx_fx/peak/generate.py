"""Generate Inductor's code for a traced module without compiling it, in a few seconds and on fake tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch import fx

from ..inductor.compile import Partitioner, load
from ..inductor.half import is_coded, settings_for
from ..process.recursion_limit import raised_recursion_limit


class _CodeGenerated(Exception):
    """Raised to stop a compile once its code has been generated."""


def generate_code(
    module: fx.GraphModule,
    inputs: Sequence[Any],
    partitioner: Partitioner | None = None,
    options: Mapping[str, Any] | None = None,
    patches: Sequence[str] | None = None,
    low_peak: bool = False,
) -> tuple[Callable[..., Any], list[str]]:
    """(a function that returns fake results of the forward, the source of forward and backward).

    partitioner: None for torch's own; patches, low_peak: as for `compile_inductor`. The function
    must be called under the fake mode in which `module` was traced.
    """
    from torch._functorch import config as functorch
    from torch._guards import TracingContext
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner
    from torch._inductor.graph import GraphLowering

    load()
    sources: list[str] = []

    strides: list[tuple[int, ...] | None] = []

    def stop(source: str) -> None:
        sources.append(source)
        strides[:] = _output_strides()
        raise _CodeGenerated

    def generate_half(half: fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
        results, count = _results(half), len(sources)
        is_backward = bool(kwargs.get("is_backward"))
        settings = settings_for(half, is_backward, patches, low_peak) if is_coded(half) else contextlib.nullcontext()
        with mock.patch.object(GraphLowering, "save_output_code", stop), settings:
            try:
                compile_fx_inner(half, *args, **kwargs)
            except Exception:  # what stopped it, in an exception of Inductor's
                if len(sources) == count:
                    raise
        tracing = TracingContext.try_get()
        if tracing is not None and tracing.output_strides is not None:
            tracing.output_strides.extend(strides)  # as a finished compile does: the backward is compiled for them
        return results

    changes = dict(options or {}) | ({} if partitioner is None else {"custom_partitioner_fn": partitioner})
    with (
        raised_recursion_limit(),
        config.patch(fx_graph_cache=False, force_disable_caches=False),  # the latter's folder is kept at an exception
        functorch.patch(enable_autograd_cache=False, force_non_lazy_backward_lowering=True),
    ):
        call: Any = compile_fx(module, inputs, inner_compile=generate_half, config_patches=changes)
    return call, sources


def _output_strides() -> list[tuple[int, ...] | None]:
    """The strides of the outputs of the graph that Inductor is lowering; None where there are none of fixed size."""
    from torch._inductor.virtualized import V

    strides: list[tuple[int, ...] | None] = []
    for output in V.graph.graph_outputs:
        layout = getattr(output, "layout", None)
        numbers = output.get_stride() if hasattr(layout, "stride") else [None]
        is_fixed = all(str(number).isdigit() for number in numbers)
        strides.append(tuple(int(str(number)) for number in numbers) if is_fixed else None)
    return strides


def _results(half: fx.GraphModule) -> Callable[..., Any]:
    """A boxed function that returns new fake tensors like the half's results."""
    output = next(iter(half.graph.find_nodes(op="output")))
    values = [node.meta["val"] if isinstance(node, fx.Node) else node for node in output.args[0]]

    def run(args: list[Any]) -> list[Any]:
        args.clear()
        return [torch.empty_like(value) if isinstance(value, torch.Tensor) else value for value in values]

    run._boxed_call = True  # type: ignore[attr-defined]
    return run
