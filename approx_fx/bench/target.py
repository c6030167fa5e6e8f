"""Load TARGET of the command line, `package.module:factory` or `path/file.py:factory`, and check what it returns."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import ApproxFxError, did_you_mean

DEFAULT_BATCH = 32


@dataclass(frozen=True)
class Target:
    """What a factory returns. loss: the model's output -> a scalar to differentiate.

    inputs, keywords: the arguments of the model; a factory gives the one as a tuple or the other as a mapping.
    has_loss: the factory gave the loss; else it is `noise_loss`.
    """

    name: str
    model: nn.Module
    inputs: tuple[Any, ...]
    loss: Callable[[Any], Tensor]
    keywords: dict[str, Any] = field(default_factory=dict)
    has_loss: bool = False


def loss_inside(model: nn.Module, loss: Callable[[Any], Tensor]) -> nn.Module:
    """The model, changed in place so that its call returns `loss(output)`; names of modules and parameters stay."""
    model.forward = functools.partial(_loss_of, model.forward, loss)  # type: ignore[method-assign]
    return model


def _loss_of(forward: Callable[..., Any], loss: Callable[[Any], Tensor], *args: Any, **kwargs: Any) -> Tensor:
    return loss(forward(*args, **kwargs))


def load(target: str, batch: int | None = None) -> Target:
    """Import a factory and call it. batch None: the factory's default, or 32. Raises ApproxFxError if that fails."""
    location, separator, name = target.partition(":")
    if not separator or not location or not name:
        raise ApproxFxError(
            f"TARGET {target!r} is not of the form package.module:factory or path/file.py:factory, "
            "such as models.resnet:resnet20."
        )
    if batch is not None and batch < 1:
        raise ApproxFxError(f"--batch {batch} is not allowed: the batch is 1 or more.")
    module = _module(location)
    factory = getattr(module, name, None)
    if factory is None:
        names = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise ApproxFxError(
            f"{location} has no {name!r}.{did_you_mean(name, names)} It has: {', '.join(names) or 'nothing'}."
        )
    if not callable(factory):
        raise ApproxFxError(f"{target} is a {type(factory).__name__}, not a factory: a function that takes batch.")
    return _checked(target, _call(target, factory, batch))


def _module(place: str) -> ModuleType:
    if sys.path[0] != "":
        sys.path.insert(0, "")
    if place.endswith(".py"):
        path = Path(place)
        if not path.exists():
            near = did_you_mean(path.name, [item.name for item in path.parent.glob("*.py")])
            raise ApproxFxError(f"there is no file {place!r}.{near}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        run: Callable[[], Any] = lambda: spec.loader.exec_module(module)  # type: ignore[union-attr]  # noqa: E731
    else:
        run = lambda: importlib.import_module(place)  # noqa: E731
    try:
        imported = run()
    except ModuleNotFoundError as error:
        raise ApproxFxError(
            f"cannot import {place!r}: {error}. Is it on the path, seen from {Path.cwd().name!r}?"
        ) from error
    except Exception as error:
        raise ApproxFxError(f"importing {place!r} failed: {type(error).__name__}: {error}") from error
    return imported if isinstance(imported, ModuleType) else module


def _call(target: str, factory: Callable[..., Any], batch: int | None) -> Any:
    torch.manual_seed(0)
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        parameters = {"batch": inspect.Parameter("batch", inspect.Parameter.KEYWORD_ONLY)}  # type: ignore[assignment]
    if "batch" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        accepted = ", ".join(parameters) or "nothing"
        raise ApproxFxError(f"{target} takes {accepted}; a factory takes batch: int and returns (model, inputs).")
    if batch is None and parameters["batch"].default is inspect.Parameter.empty:
        batch = DEFAULT_BATCH
    return factory() if batch is None else factory(batch=batch)


def _checked(target: str, returned: Any) -> Target:
    expected = "a factory returns (model, inputs) or (model, inputs, loss), inputs a tuple or a dict"
    if not isinstance(returned, (tuple, list)) or len(returned) not in (2, 3):
        what = f"{len(returned)} values" if isinstance(returned, (tuple, list)) else f"a {type(returned).__name__}"
        raise ApproxFxError(f"{target} returned {what}; {expected}.")
    model, inputs = returned[0], returned[1]
    if not isinstance(model, nn.Module):
        raise ApproxFxError(
            f"{target} returned a {type(model).__name__} as the model; {expected}, the model a torch.nn.Module."
        )
    if not isinstance(inputs, (tuple, list, Mapping)):
        raise ApproxFxError(f"{target} returned inputs of type {type(inputs).__name__}; {expected}.")
    loss = returned[2] if len(returned) == 3 else noise_loss
    if not callable(loss):
        raise ApproxFxError(
            f"{target} returned a {type(loss).__name__} as the loss; {expected}, loss a function of the output."
        )
    if isinstance(inputs, Mapping):
        return Target(target, model, (), loss, dict(inputs), len(returned) == 3)
    return Target(target, model, tuple(inputs), loss, has_loss=len(returned) == 3)


def noise_loss(output: Any) -> Tensor:
    """The inner product of all float outputs with fixed Gaussian noise, which gives every output a nonzero gradient."""
    generator = torch.Generator().manual_seed(0)
    floats = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not floats:
        raise ApproxFxError("the model returns no floating point tensor: give the factory a loss as its third value.")
    parts = [(leaf.float() * torch.randn(leaf.shape, generator=generator).to(leaf.device)).sum() for leaf in floats]
    return torch.stack(parts).sum()
