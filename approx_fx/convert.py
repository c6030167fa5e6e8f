"""`approx_fx.convert(model, bits=4)`: compile a model in place with this backend; `approx_fx.restore` takes it back."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import fx, nn

from .backend import compile_with
from .config import Config
from .errors import ApproxFxError
from .inductor import compile as inductor
from .recurrent.packed import run_packed_rows, unpacking
from .report.runs import forget_runs, last_runs, note_uncompiled
from .torch_compat.compiled_module import attach_to_copies, compile_call, remove_compiled_call, set_compiled_call
from .torch_compat.dynamo import traced_more

Model = TypeVar("Model", bound=nn.Module)

log = logging.getLogger(__name__)


def convert(model: Model, *, dynamic: bool | None = None, **options: Any) -> Model:
    """Make `model` run compiled, with its saved activations stored in `bits` bits; return the same model.

    Compilation happens at the first call. The keys of the state_dict do not change. Deep copies and pickles of the
    model are converted, too. If Dynamo can compile nothing of the model, its first training step says so, or raises
    ApproxFxError if `strict`. options: the fields of `Config`; dynamic: as in torch.compile.
    Raises ApproxFxError for an unknown option, and for what is no module.
    """
    config = Config.of(options)
    if not isinstance(model, nn.Module):
        raise ApproxFxError(f"a {type(model).__name__} was given where a torch.nn.Module is expected.")
    config.check_names(name for name, _ in model.named_modules())
    if config.compiler == "inductor":
        inductor.load()
    layers = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    is_coded = config.bits is not None  # else recurrent layers are left to eager, as by torch.compile
    conversion = Conversion(config, dynamic, bool(layers) and is_coded)
    for layer in layers:
        if is_coded:
            conversion(layer)  # for packed batches: Dynamo leaves such a call to eager, which then comes here
        else:
            remove_compiled_call(layer)
    conversion(model)
    return model


def restore(model: Model) -> Model:
    """Take back `convert`, of the model and of all modules in it; return the same model, which runs uncompiled."""
    for module in model.modules():
        remove_compiled_call(module)
    forget_runs(model)
    return model


@dataclass(frozen=True)
class Conversion:
    """The options of one `convert`; called with a module, it makes that module run compiled by them.

    It is stored in the module and pickled with it, so that deep copies and loaded files are converted in the same way.
    is_recurrent: recurrent layers of torch's are in it, which Dynamo is to trace.
    """

    config: Config
    dynamic: bool | None = None
    is_recurrent: bool = False

    def __call__(self, model: nn.Module) -> None:
        """Convert a module, which need not have its parameters yet."""
        reference, config = weakref.ref(model), self.config  # what Dynamo keeps must not keep the model

        def approx_fx(module: fx.GraphModule, inputs: Sequence[Any], mode: str | None = None) -> Callable[..., Any]:
            owner = reference()
            return compile_with(config, module, inputs, mode, [] if owner is None else [owner])

        compiled = compile_call(approx_fx, self.dynamic)
        if isinstance(model, nn.RNNBase) and self.is_recurrent:
            compiled = unpacking(compiled, compile_call(approx_fx, self.dynamic, run_packed_rows))
        compiled = traced_more(compiled, self.is_recurrent)
        set_compiled_call(model, compiled, self._after_first_step)
        attach_to_copies(model, self)

    def _after_first_step(self, model: nn.Module, reasons: list[str]) -> None:
        """Say so if nothing of the model was compiled, with the last of the reasons that Dynamo gave.

        Raises:
            ApproxFxError: that is so, and `strict` is set.
        """
        if self.config.bits is None or last_runs(model):
            return
        sentence = f"{type(model).__name__} trains exactly: torch.compile could not compile any part of it"
        sentence += f", because of: {reasons[-1]}" if reasons else "."
        note_uncompiled(model, sentence)
        if self.config.strict:
            raise ApproxFxError(sentence)
        log.warning("approx_fx: %s", sentence)
