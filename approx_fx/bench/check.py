"""`check` measures, without training, how far codes are off on real data and what they do to each gradient."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backend import compile_with
from ..config import Config
from ..errors import ApproxFxError
from ..explain import check_trainable, split_arguments
from ..report.data import MeasuredValue
from ..report.registry import report
from ..torch_compat.dynamo import trace_in_isolation
from .target import noise_loss


@dataclass(frozen=True)
class Checked:
    """What `check` measured. values: one for each value that the backward reads approximately.

    cosines: parameter -> the cosine of its gradient with the exact one; a parameter without a gradient is absent.
    cosine: of all gradients together. exact_graphs: why graphs train exactly.
    """

    values: tuple[MeasuredValue, ...]
    cosines: dict[str, float]
    cosine: float
    exact_graphs: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        rows = [dataclasses.asdict(value) for value in self.values]
        return {
            "tensors": rows,
            "gradient": {"cosine": self.cosine, "parameters": self.cosines},
            "exact_graphs": list(self.exact_graphs),
        }

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)

    def save_plot(self, path: str | Path) -> Path:
        """Draw measured against promised errors, and the cosines; returns the path. Needs matplotlib."""
        from ..report.view.check_plot import save

        return save(self.values, self.cosines, Path(path))

    def __str__(self) -> str:
        from ..report.text import check_as_text

        return check_as_text(self.values, self.cosines, self.cosine, self.exact_graphs)


def check(
    model: nn.Module,
    *args: Any,
    loss: Callable[[Any], Tensor] | None = None,
    dtype: torch.dtype | None = None,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Checked:
    """Measure one step of `model(*args, **kwargs)` on this data; the model, its gradients and buffers do not change.

    The step runs op by op, once exactly and once with codes, on copies of the model: memory is that of an eager step.

    loss: the model's output -> a scalar; the default is the inner product with fixed Gaussian noise. dtype: of the
    forward under autocast. options: fields of `Config`. kwargs: the model's own keyword arguments, and fields of
    `Config`.
    Raises ApproxFxError for an argument that is neither, for one that could be both, and for a step in which nothing
    needs a gradient.
    """
    settings, keywords = split_arguments(model, options, kwargs)
    config = dataclasses.replace(Config.of(settings), compiler="eager", mode=None, inductor={})
    check_trainable(model, args, keywords)
    config.check_names(name for name, _ in model.named_modules())
    if config.check is None:
        raise ApproxFxError("check=None is not allowed here: approx_fx.check measures; leave the option out.")
    step = _Step(args, keywords, loss or noise_loss, dtype)
    exact, _ = step.gradients(model, dataclasses.replace(config, bits=None))
    coded, measured = step.gradients(model, config)
    cosines = {name: _cosine(coded[name], gradient) for name, gradient in exact.items()}
    whole = [torch.cat([gradients[name].flatten() for name in exact]) for gradients in (coded, exact)]
    failed = tuple(graph.failed for graph in measured.graphs if graph.failed)
    return Checked(tuple(measured.measured), cosines, _cosine(*whole), failed)


@dataclass(frozen=True)
class _Step:
    args: tuple[Any, ...]
    keywords: Mapping[str, Any]
    loss: Callable[[Any], Tensor]
    dtype: torch.dtype | None

    def gradients(self, model: nn.Module, config: Config) -> tuple[dict[str, Tensor], Any]:
        """(gradients by parameter, as float64 on the CPU; the report) of one step of a copy of the model."""
        twin = copy.deepcopy(model)
        twin.zero_grad(set_to_none=True)
        device = next(twin.parameters()).device.type
        autocast = torch.autocast(device, self.dtype) if self.dtype is not None else contextlib.nullcontext()

        def backend(module: Any, inputs: Any) -> Any:
            return compile_with(config, module, inputs, owners=[twin])

        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices), torch.enable_grad():
            with autocast:
                output = trace_in_isolation(twin, self.args, backend, self.keywords)
            self.loss(output).backward()
        gradients = {
            name: parameter.grad.detach().double().cpu()
            for name, parameter in twin.named_parameters()
            if parameter.grad is not None
        }
        return gradients, report(twin)


def _cosine(a: Tensor, b: Tensor) -> float:
    """The cosine; 1.0 for two zeros, nan if an element is not finite."""
    a, b = a.flatten(), b.flatten()
    lengths = a.norm() * b.norm()
    if float(lengths) == 0.0:
        return float(bool((a == b).all()))
    return float(a @ b / lengths)
