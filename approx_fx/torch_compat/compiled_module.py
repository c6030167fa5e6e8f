"""torch.nn.Module._compiled_call_impl: make calls of a module run its compiled code."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import nn


def _call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module._call_impl(*args, **kwargs)


def set_compiled_call(model: nn.Module, backend: Callable[..., Any], dynamic: bool | None) -> None:
    """Make `model(...)` run compiled by `backend`; the keys of the state_dict do not change.

    nn.Module.compile does the same, but Dynamo does not trace the call of an nn.Sequential as the outermost frame and
    would compile each of its layers separately; a function around that call is traced as a whole. Dynamo keeps what it
    compiled, up to a limit, with the function's code object: each model has its own. The model is an argument, not in a
    closure, so that what Dynamo keeps does not keep the model.
    """
    function = FunctionType(_call.__code__.replace(), globals())
    model._compiled_call_impl = partial(torch.compile(function, backend=backend, dynamic=dynamic), model)
