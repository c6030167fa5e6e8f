"""ActNN's scheme (Chen et al., ICML 2021) at 2 bits: every tensor that autograd saves is encoded separately.

Groups of 256 neighbours share a minimum and a step; codes are rounded stochastically, without bias. Batch norm's input,
the convolution's input and every other saved tensor have separate codes; a ReLU saves one bit an element as its mask.
ActNN's adaptive choice of bits is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from approx_fx.ops import bitmask, stochastic

GROUP = 256
SMALLEST = 4096  # bytes; a smaller tensor is kept as it is


@dataclass(frozen=True)
class Coded:
    """A saved tensor: codes uint8, low and step of each group, and the shape to give back."""

    codes: Tensor
    scale: Tensor
    shape: torch.Size


def convert_to_actnn(model: nn.Module, bits: int = 2) -> nn.Module:
    """Wrap the forward in hooks that encode saved tensors, and replace ReLUs by ones that save bits; in place."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, BitRelu())
    model.forward = with_codes(model.forward, model, bits)  # type: ignore[method-assign]
    return model


def with_codes(forward: Callable[..., Any], model: nn.Module, bits: int) -> Callable[..., Any]:
    """Wrap `forward` in hooks that encode float32 tensors of at least SMALLEST bytes, except parameters of `model`."""

    def coded(*args: Any) -> Any:
        parameter_pointers = {parameter.data_ptr() for parameter in model.parameters()}

        def pack(x: Tensor) -> Tensor | Coded:
            if x.dtype != torch.float32 or 4 * x.numel() < SMALLEST or x.data_ptr() in parameter_pointers:
                return x
            key = torch.randint(stochastic.HASH_MASK, (), device=x.device)
            flat = nn.functional.pad(x.flatten(), (0, -x.numel() % GROUP))
            codes, scale = stochastic.quantize_stochastic.overload(flat, None, key, bits, 0, GROUP, [], 0)
            return Coded(codes, scale, x.shape)

        def unpack(saved: Tensor | Coded) -> Tensor:
            if isinstance(saved, Tensor):
                return saved
            count = saved.shape.numel()
            flat = stochastic.dequantize_stochastic.overload(
                saved.codes, saved.scale, False, bits, 0, GROUP, 0, count + -count % GROUP, torch.float32
            )
            return flat[:count].view(saved.shape)

        with saved_tensors_hooks(pack, unpack):
            return forward(*args)

    return coded


class BitRelu(nn.Module):
    """ReLU that saves one bit an element for its backward."""

    def forward(self, x: Tensor) -> Tensor:
        """As nn.ReLU."""
        out: Tensor = _Relu.apply(x)
        return out


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.bits = bitmask.quantize_bitmask.overload((x > 0).flatten(), 0)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (g,) = gradients
        return torch.where(bitmask.dequantize_bitmask.overload(ctx.bits, 0, g.numel()).view(g.shape), g, 0.0)
