"""What the examples share: each prints, as one line of JSON, what its training saved and how right its gradient is.

Importing this makes the checkout and, with a CPU build of torch, torchvision importable.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import approx_fx
from tools.lib.torchvision_import import import_torchvision

import_torchvision()


def whole(value: Any) -> Tensor:
    """A detached copy of a parameter or gradient, gathered from all processes where it is sharded."""
    value = value.detach()
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).clone()


class Watch:
    """Remembers a model's parameters before it is trained, and afterwards says what the training did."""

    def __init__(self, model: nn.Module) -> None:
        self.before = {name: whole(parameter) for name, parameter in model.named_parameters()}

    def show(self, model: nn.Module, losses: Sequence[float], loss: Callable[[], Tensor]) -> None:
        """Print one line of JSON, in the first process only.

        model: the one that was watched, trained; losses: of its steps; loss: the loss of one batch, whose gradient is
        taken once as the model is and once uncompiled and exact, to compare the two.
        """
        report = approx_fx.report(model)
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        changed = [name for name, p in model.named_parameters() if not torch.equal(self.before[name], whole(p))]
        coded = gradient(model, loss)
        exact = gradient(approx_fx.restore(model), loss)
        result = {
            "saved_exact": report.saved_before,
            "saved": report.saved_after,
            "ratio": report.ratio,
            "graphs": len(report.graphs),
            "failed": [graph.failed for graph in report.graphs if graph.failed],
            "loss_first": losses[0],
            "loss_last": losses[-1],
            "cosine": float(coded @ exact / (coded.norm() * exact.norm())),
            "parameters_trained": len(trained),
            "parameters_in_all": len(self.before),
            "only_trained_changed": sorted(trained) == sorted(changed),
            "frozen_without_gradient": all(p.requires_grad or p.grad is None for p in model.parameters()),
        }
        if not dist.is_initialized() or dist.get_rank() == 0:
            print(json.dumps(result))


def gradient(model: nn.Module, loss: Callable[[], Tensor]) -> Tensor:
    """The gradient of a loss in all trained parameters as one vector."""
    model.zero_grad(set_to_none=True)
    loss().backward()
    return torch.cat([whole(p.grad).double().flatten() for p in model.parameters() if p.requires_grad])
