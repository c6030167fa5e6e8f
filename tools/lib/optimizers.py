"""Optimizers and learning rate schedules by name."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from tools.lib.settings import Settings
from tools.lib.user_errors import pick

LEARNING_RATES = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-3}
SCHEDULES = ("onecycle", "cosine", "constant")


def make_optimizer(settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer named in `settings`; SGD has momentum 0.9, the others torch's defaults.

    Raises:
        UserError: unknown name.
    """
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    name = pick("optimizer", settings.optimizer, kinds)
    options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if name == "sgd":
        options["momentum"] = 0.9
    return kinds[name](model.parameters(), **options)


def make_scheduler(settings: Settings, optimizer: torch.optim.Optimizer, total: int) -> LambdaLR:
    """Build the learning rate schedule named in `settings` for `total` steps.

    onecycle rises linearly from 1/25 of lr to lr in the first 30 % of the steps, then falls to 0 along a cosine; cosine
    falls from lr to 0; constant is lr.

    Raises:
        UserError: unknown schedule.
    """
    name = pick("schedule", settings.schedule, SCHEDULES)
    rise = 0.3 * total if name == "onecycle" else 0.0

    def factor(step: int) -> float:
        if name == "constant":
            return 1.0
        if step < rise:
            return 0.04 + 0.96 * step / rise
        return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / (total - rise))

    return LambdaLR(optimizer, factor)
