"""torch.nn.Module._compiled_call_impl: make calls of a module run its compiled code, and carry that over to copies."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import nn

from .dynamo import GraphBreaks

Attach = Callable[[nn.Module], None]


def _call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module._call_impl(*args, **kwargs)


def compile_call(
    backend: Callable[..., Any], dynamic: bool | None, function: Callable[..., Any] = _call
) -> Callable[..., Any]:
    """Compile `function(model, ...)`, by default the call of a model, for one model.

    nn.Module.compile does the same, but Dynamo does not trace the call of an nn.Sequential as the outermost frame and
    would compile each of its layers separately; a function around that call is traced as a whole. Dynamo keeps what it
    compiled, up to a limit, with the function's code object: each model has its own. The model is an argument, not in a
    closure, so that what Dynamo keeps does not keep the model.
    """
    own = FunctionType(function.__code__.replace(), function.__globals__)  # type: ignore[attr-defined]
    return torch.compile(own, backend=backend, dynamic=dynamic)


def set_compiled_call(
    model: nn.Module, compiled: Callable[..., Any], on_first_step: Callable[[nn.Module, list[str]], None]
) -> None:
    """Make `model(...)` run `compiled(model, ...)`; the keys of the state_dict do not change.

    on_first_step: called with the model, after its first call whose result needs a gradient, and with the reasons for
        which Dynamo has left code uncompiled in the calls so far.
    """
    breaks = GraphBreaks()

    def first_calls(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with breaks:
            result = compiled(module, *args, **kwargs)
        leaves = torch.utils._pytree.tree_leaves(result)
        if torch.is_grad_enabled() and any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves):
            on_first_step(module, breaks.reasons)  # if it raises, the next step asks again
            if module._compiled_call_impl is call:
                module._compiled_call_impl = partial(compiled, module)
        return result

    call = partial(torch.compiler.disable(first_calls), model)  # compiled code that breaks here must not trace it
    model._compiled_call_impl = call


def remove_compiled_call(model: nn.Module) -> None:
    """Make `model(...)` run uncompiled, and its copies."""
    model._compiled_call_impl = None
    model.__dict__.pop("__reduce_ex__", None)


def attach_to_copies(model: nn.Module, attach: Attach) -> None:
    """Have `attach` called with each deep copy of the model, and with each that is loaded from a pickle.

    nn.Module leaves the compiled call out of what it pickles. `attach` is pickled; it gets a copy without attributes.
    """
    object.__setattr__(model, "__reduce_ex__", partial(_reduce, model, attach))


def _reduce(model: nn.Module, attach: Attach, protocol: int) -> Any:
    """Reduce a model for pickle and copy as its class does, but have the copy made by `_attached`.

    A class with a reduction of its own is left to it: its copies are not converted.
    """
    reduced: Any = type(model).__reduce_ex__(model, protocol)
    make, args, state, *rest = reduced
    if make is not copyreg.__newobj__ or not isinstance(state, dict):  # type: ignore[attr-defined]
        return (make, args, state, *rest)
    state = {name: value for name, value in state.items() if name not in ("__reduce_ex__", "_compiled_call_impl")}
    return (_attached, (attach, *args), state, *rest)


def _attached(attach: Attach, cls: type[nn.Module], *args: Any) -> nn.Module:
    """Make an empty instance of a class, as unpickling does, and call `attach` with it."""
    model = cls.__new__(cls, *args)
    attach(model)
    return model
