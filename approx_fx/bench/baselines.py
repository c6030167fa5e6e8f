"""The systems that approx_fx is compared with, and approx_fx itself: each maps a model to a callable to train.

A system's name may carry a width: `approx_fx@8` is approx_fx at 8 bits, overriding the config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..config import Config
from ..convert import convert
from ..errors import ApproxFxError, did_you_mean
from .checkpoint import checkpoint_blocks
from .target import loss_inside

Trained = Callable[..., Any]

BUDGET = 0.5
CHUNKED: dict[str, Any] = {"auto_chunker.enable": True}
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
    """One way to train a model. compile: (model, config) -> a callable with the model's signature and parameters.

    Only approx_fx uses the config. prepare: changes a model before its loss is brought into its forward, and compiled
    with it. Both may change the model in place, but not the keys of its state_dict.
    """

    name: str
    about: str
    compile: Callable[[nn.Module, Config], Trained]
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model


def _ours(model: nn.Module, config: Config) -> Trained:
    return convert(model, **dataclasses.asdict(config))


def _compile(model: nn.Module, _: Config) -> Trained:
    return torch.compile(model)


def _eager(model: nn.Module, _: Config) -> Trained:
    return model


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


def _chunked(model: nn.Module, _: Config) -> Trained:
    return torch.compile(model, options=CHUNKED)


def _offloaded(trained: Trained) -> Trained:
    """The callable with everything that autograd saves copied to the host's memory in the forward, and back."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available()):
            return trained(*args, **kwargs)

    return call


def checkpoint_hf(model: nn.Module) -> nn.Module:
    """Switch on the checkpointing that a model of transformers brings.

    Raises ApproxFxError if the model has none.
    """
    enable = getattr(model, "gradient_checkpointing_enable", None)
    if enable is None:
        raise ApproxFxError(
            f"checkpoint-hf needs a model of transformers: {type(model).__name__} has no "
            "gradient_checkpointing_enable(). Allowed for any model: checkpoint."
        )
    enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def fused_loss(model: nn.Module) -> nn.Module:
    """Compute the loss of a model of transformers, with labels, by `torch.nn.functional.linear_cross_entropy`.

    The head returns its input, and the model's loss function gets it. Raises ApproxFxError for other models.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    if not isinstance(head, nn.Linear) or not hasattr(model, "loss_function"):
        raise ApproxFxError(
            f"linear_cross_entropy needs a causal language model of transformers: {type(model).__name__} has no linear "
            "head with a loss function of the model's own."
        )

    if not hasattr(nn, "LinearCrossEntropyOptions"):
        raise ApproxFxError(f"linear_cross_entropy came with torch 2.13; this is {torch.__version__}.")
    chunked = nn.LinearCrossEntropyOptions()  # without options it makes all logits at once

    def loss(logits: Tensor, labels: Tensor, vocab_size: int | None = None, **_: Any) -> Tensor:
        hidden, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return nn.functional.linear_cross_entropy(hidden, head.weight, targets, linear_bias=head.bias, options=chunked)

    head.forward = lambda hidden: hidden  # type: ignore[method-assign,assignment,misc]
    model.loss_function = loss  # type: ignore[assignment]
    return model


TABLE = (
    System("approx_fx", "saved activations in the config's bits; approx_fx@B: in B", _ours),
    System("approx_fx+checkpoint", "approx_fx, with torch.utils.checkpoint around each block", _ours,
           partial(checkpoint_blocks, restore=False)),
    System("approx_fx+offload", "approx_fx, what it saves in the host's memory",
           lambda model, config: _offloaded(_ours(model, config))),
    System("compile", "torch.compile as it comes", _compile),
    System("eager", "PyTorch op by op", _eager),
    System("budget", f"torch.compile with an activation memory budget of {BUDGET}", _budget),
    System("checkpoint", "torch.compile with torch.utils.checkpoint around each block", _compile,
           partial(checkpoint_blocks, restore=False)),
    System("checkpoint-eager", "torch.utils.checkpoint around each block, op by op", _eager,
           partial(checkpoint_blocks, restore=True)),
    System("checkpoint-hf", "torch.compile with the checkpointing that a model of transformers brings", _compile,
           checkpoint_hf),
    System("offload", "torch.compile, what it saves in the host's memory",
           lambda model, config: _offloaded(_compile(model, config))),
    System("chunked", "torch.compile with Inductor's auto_chunker", _chunked),
    System("linear_cross_entropy", "torch.compile with torch's linear_cross_entropy, for a model of transformers",
           _compile, fused_loss),
    System("fp8", "torch.compile with torch's own fp8 pass over what is saved, scales set right", _fp8),
)  # fmt: skip
SYSTEMS = {system.name: system for system in TABLE}
OURS = "approx_fx"


def is_approx_fx(name: str) -> bool:
    """Returns True for this package's own systems: 'approx_fx', also with a width or with another system's name."""
    return name.partition("@")[0].partition("+")[0] == OURS


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


def apply(name: str, model: nn.Module, config: Config, loss: Callable[[Any], Tensor] | None = None) -> Trained:
    """Apply the system `name` to `model`; return the callable to train in the model's place.

    loss: of the model's output; if given, the callable returns it, and it is compiled with the model.
    """
    system = pick(name, "system")
    model = system.prepare(model)
    return system.compile(model if loss is None else loss_inside(model, loss), config_of(name, config))
