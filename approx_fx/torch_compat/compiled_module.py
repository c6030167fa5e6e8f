"""torch.nn.Module._compiled_call_impl: make calls of a module run its compiled code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def set_compiled_call(model: nn.Module, backend: Callable[..., Any], dynamic: bool | None) -> None:
    """Make `model(...)` run compiled by `backend`; the keys of the state_dict do not change.

    nn.Module.compile does the same, but Dynamo does not trace the call of an nn.Sequential as the outermost frame and
    would compile each of its layers separately; a function around that call is traced as a whole.
    """
    call = model._call_impl

    def forward(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    model._compiled_call_impl = torch.compile(forward, backend=backend, dynamic=dynamic)
