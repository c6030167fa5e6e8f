"""The systems that approx_fx is compared with, and approx_fx itself: each maps a model to a callable to train.

A system's name may carry a width: `approx_fx@8` is approx_fx at 8 bits, overriding the config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from ..config import Config
from ..convert import convert
from ..errors import ApproxFxError, did_you_mean
from .checkpoint import checkpoint_blocks

Trained = Callable[..., Any]

BUDGET = 0.5
FP8 = {
    "quant_type": "torch.float8_e4m3fn",
    "allowed_dtypes": "torch.float32;torch.float16;torch.bfloat16",
    "size_in_mb": 1 / 16,
    "use_scaling": True,
    "exclude_primals": True,
}
"""Options of torch's activation_quantization_aten_pass. use_scaling is given because its default in the forward differs
from that in the backward; by default allowed_dtypes is bfloat16 alone and size_in_mb 100. Primals, which are inputs and
parameters, are excluded because they stay alive anyway, so fp8 copies of them only add memory."""


@dataclass(frozen=True)
class System:
    """One way to train a model. apply: (model, config) -> a callable with the model's signature and parameters.

    Only approx_fx uses the config. apply may change the model in place, but not the keys of its state_dict.
    """

    name: str
    about: str
    apply: Callable[[nn.Module, Config], Trained]


def _budget(model: nn.Module, _: Config) -> Trained:
    from torch._functorch import config as functorch
    from torch._inductor import compile as inductor

    def budget(module: fx.GraphModule, inputs: Any) -> Trained:
        with functorch.patch(activation_memory_budget=BUDGET):
            return inductor(module, inputs)

    return torch.compile(model, backend=budget)


def _fp8(model: nn.Module, _: Config) -> Trained:
    options: dict[str, Any] = {"post_grad_fusion_options": {"activation_quantization_aten_pass": FP8}}
    return torch.compile(model, options=options)


def _checkpoint(model: nn.Module, _: Config) -> Trained:
    return torch.compile(checkpoint_blocks(model, restore=False))


TABLE = (
    System("approx_fx", "saved activations in the config's bits; approx_fx@B: in B", lambda model, config: convert(
        model, **dataclasses.asdict(config))),
    System("compile", "torch.compile as it comes", lambda model, _: torch.compile(model)),
    System("eager", "PyTorch op by op", lambda model, _: model),
    System("budget", f"torch.compile with an activation memory budget of {BUDGET}", _budget),
    System("checkpoint", "torch.compile with torch.utils.checkpoint around each block", _checkpoint),
    System("checkpoint-eager", "torch.utils.checkpoint around each block, op by op",
           lambda model, _: checkpoint_blocks(model, restore=True)),
    System("fp8", "torch.compile with torch's own fp8 pass over what is saved, scales set right", _fp8),
)  # fmt: skip
SYSTEMS = {system.name: system for system in TABLE}
OURS = "approx_fx"


def is_approx_fx(name: str) -> bool:
    """Returns True for the names of this package's own system: 'approx_fx', and with a width, such as 'approx_fx@2'."""
    return name.partition("@")[0] == OURS


def config_of(name: str, config: Config) -> Config:
    """The config that the system `name` runs with: `config`, with the bits given after the @ (1 to 8, or 'exact').

    Raises ApproxFxError for an invalid width, and for a width on a system other than approx_fx.
    """
    base, at, width = name.partition("@")
    if not at:
        return config
    if base != OURS:
        raise ApproxFxError(f"{name!r} is not known: only approx_fx takes a width, as in 'approx_fx@8'.")
    if width == "exact":
        return dataclasses.replace(config, bits=None)
    if width not in map(str, range(1, 9)):
        raise ApproxFxError(f"{name!r} is not known: behind the @ stands a width from 1 to 8, or exact.")
    return dataclasses.replace(config, bits=int(width))


def pick(name: str, what: str = "--against", allowed: tuple[str, ...] = tuple(SYSTEMS)) -> System:
    """Look up the system `name`. what: the option that it was given in, for the error message.

    Raises ApproxFxError, naming the `allowed` systems and the nearest of them, if `name` is none of them.
    """
    base = name.partition("@")[0]
    if base not in SYSTEMS or (name not in allowed and "@" not in name):
        raise ApproxFxError(
            f"{what} {name!r} is not known.{did_you_mean(name, allowed)} "
            f"Allowed: {', '.join(allowed)}; approx_fx@B for B bits."
        )
    config_of(name, Config())
    return SYSTEMS[base]


def apply(name: str, model: nn.Module, config: Config) -> Trained:
    """Apply the system `name` to `model`; return the callable to train in the model's place."""
    return pick(name, "system").apply(model, config_of(name, config))
