"""torch.nn.Module._compiled_call_impl: calling a module through its compiled code, in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def set_compiled_call(model: nn.Module, backend: Callable[..., Any], dynamic: bool | None) -> None:
    """Make `model(...)` run compiled by `backend`; the state_dict's keys stay as they are.

    nn.Module.compile does the same, but dynamo does not trace nn.Sequential's own call as the outermost frame and would
    compile each of its layers by itself; a function of ours around it is traced as a whole.
    """
    call = model._call_impl

    def forward(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    model._compiled_call_impl = torch.compile(forward, backend=backend, dynamic=dynamic)
