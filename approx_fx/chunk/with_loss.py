"""`with_loss`: a model and its loss as one module, so that both are compiled as one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..errors import ApproxFxError


class WithLoss(nn.Module):
    """A model and its loss: (the model's arguments, targets) -> the loss, or (loss, output). See `with_loss`."""

    def __init__(self, model: nn.Module, loss: Callable[[Any, Any], Tensor], return_output: bool = False) -> None:
        super().__init__()
        self.model, self.loss, self.return_output = model, loss, return_output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model with all arguments but the last positional one, or `targets`, which the loss gets."""
        if "targets" in kwargs:
            kwargs = dict(kwargs)
            targets = kwargs.pop("targets")
        elif args:
            *args, targets = args  # type: ignore[assignment]
        else:
            raise ApproxFxError("no targets were given: they are the last positional argument, or targets=...")
        output = self.model(*args, **kwargs)
        loss = self.loss(output, targets)
        return (loss, output) if self.return_output else loss


def with_loss(model: nn.Module, loss: Callable[[Any, Any], Tensor], return_output: bool = False) -> WithLoss:
    """A module whose call computes the loss, too: in one graph with the model, logits and loss are computed in chunks.

    The model is not changed and keeps its parameters; its state_dict is what to save. For models that return their own
    loss, as transformers' do with `labels=`, this is not needed.

        step = approx_fx.convert(approx_fx.with_loss(model, loss))
        step(tokens, targets).backward()

    loss: (output, targets) -> a scalar, a function or a module. return_output: return (loss, output); logits that are
    the output of a linear layer are then computed when they are read.

    Raises:
        ApproxFxError: `model` is no module, or `loss` cannot be called.
    """
    if not isinstance(model, nn.Module):
        raise ApproxFxError(f"with_loss takes an nn.Module and a loss: {type(model).__name__} is no nn.Module.")
    if not callable(loss):
        raise ApproxFxError(f"with_loss takes a loss that can be called with (output, targets), not {loss!r}.")
    return WithLoss(model, loss, return_output)
