"""`approx_fx.convert(model, bits=4)`: compile a model in place with this backend."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import fx, nn

from .backend import compile_with
from .config import Config
from .explain import check_trainable
from .inductor import compile as inductor
from .torch_compat.compiled_module import set_compiled_call

Model = TypeVar("Model", bound=nn.Module)


def convert(model: Model, *, dynamic: bool | None = None, **options: Any) -> Model:
    """Make `model` run compiled, with its saved activations stored in `bits` bits; return the same model.

    Compilation happens at the first call. The keys of the state_dict do not change. options: the fields of `Config`;
    dynamic: as in torch.compile.
    Raises ApproxFxError for an unknown option, and for a model without trainable parameters.
    """
    config = Config.of(options)
    check_trainable(model)
    config.check_names(name for name, _ in model.named_modules())
    if config.compiler == "inductor":
        inductor.load()

    reference = weakref.ref(model)  # what Dynamo keeps must not keep the model

    def approx_fx(module: fx.GraphModule, inputs: Sequence[Any], mode: str | None = None) -> Callable[..., Any]:
        owner = reference()
        return compile_with(config, module, inputs, mode, [] if owner is None else [owner])

    set_compiled_call(model, approx_fx, dynamic)
    return model
