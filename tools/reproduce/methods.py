"""The methods of training that the experiments compare by name, one line for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from approx_fx.bench import baselines
from approx_fx.config import Config
from tools.lib.settings import Settings
from tools.lib.training import with_approx_fx
from tools.lib.user_errors import pick
from tools.reproduce.schemes.actnn import convert_to_actnn
from tools.reproduce.schemes.approximate_streams import Streams, stream
from tools.reproduce.schemes.banner import convert_to_8_bits

Apply = Callable[[nn.Module, Settings], nn.Module]


@dataclass(frozen=True)
class Method:
    """One method. bits: of the activations that the backward reads, None if exact. grid: of approx_fx, "" for others.

    runs: "compiled" by Inductor, "eager", or "emulated", whose time and memory are not meaningful. swap: pairs of a
    model and the model that replaces it, for a method that is an architecture.
    """

    name: str
    about: str
    bits: int | None
    runs: str
    apply: Apply
    grid: str = ""
    swap: tuple[tuple[str, str], ...] = ()


def _streams(bits: int, forward: bool, backward: bool) -> Apply:
    return lambda model, _: stream(model, Streams(bits, forward, backward))


def _system(name: str) -> Apply:
    """A system of `approx-fx compare`, which replaces only the model's forward, so that parameters keep their names."""

    def apply(model: nn.Module, _: Settings) -> nn.Module:
        trained = baselines.apply(name, model, Config())
        if isinstance(trained, nn.Module):
            return trained
        model.forward = trained  # type: ignore[method-assign]
        return model

    return apply


REVNET = (("preact_resnet164", "revnet164"), ("preact_basic20", "revnet32"), ("preact_basic8", "revnet20"))
WIDTHS = (8, 4, 2)
TABLE = (
    Method("exact", "torch.compile's own partition, exact gradients", None, "compiled", with_approx_fx, "gaussian"),
    *(Method(f"ours-{k}", f"approx_fx, {k} bits", k, "compiled", with_approx_fx, "gaussian") for k in WIDTHS),
    *(Method(f"blpa-{k}", f"approx_fx on the paper's grid, {k} bits", k, "compiled", with_approx_fx,
             "blpa") for k in WIDTHS),
    *(Method(f"naive-{k}", f"{k}-bit activations in the forward and the backward", k, "emulated",
             _streams(k, True, True)) for k in WIDTHS),
    *(Method(f"forward-{k}", f"{k}-bit activations in the forward, exact ones in the backward", k, "emulated",
             _streams(k, True, False)) for k in WIDTHS),
    Method("banner-8", "Banner et al.: Range BN, 8 bits everywhere", 8, "eager",
           lambda model, _: convert_to_8_bits(model)),
    Method("actnn-2", "ActNN's scheme, 2 bits", 2, "eager", lambda model, _: convert_to_actnn(model)),
    Method("revnet", "a reversible net with as many parameters", None, "eager", lambda model, _: model, swap=REVNET),
    Method("fp8", "torch.compile with torch's own fp8 pass", 8, "compiled", _system("fp8")),
)  # fmt: skip
METHODS = {method.name: method for method in TABLE}


def method(name: str) -> Method:
    """Look up the method `name`. Raises UserError if it is unknown."""
    return METHODS[pick("method", name, METHODS)]


def convert(model: nn.Module, settings: Settings) -> nn.Module:
    """Apply the settings' method to `model`, which may be changed in place; return the model to train."""
    return METHODS[settings.method].apply(model, settings)


def model_of(name: str, model: str) -> str:
    """The name of the model that the method `name` trains in place of `model`. Raises UserError if there is none."""
    swap = dict(method(name).swap)
    return swap[pick(f"{name} for the model", model, swap)] if swap else model
