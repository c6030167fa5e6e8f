"""Functions of decoded values in a few instructions: their error is far below that of any code.

On the CPU erf and tanh, exact to the last digit, take ten times an arithmetic operation's time and more; a GELU's
backward has one for the value and the derivative of each element.

    erf(x)  = 1 - (1 + a1 x + ... + a6 x^6)^-16,  x >= 0, and odd    error 3e-7 (Abramowitz & Stegun 1964, 7.1.28)
    tanh(x) = 2 sigmoid(2 x) - 1
"""

from __future__ import annotations

import torch
from torch import Tensor

from .registry import define

ERF = (0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638)


def _fake(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@define(_fake)
def short_erf(x: Tensor) -> Tensor:
    """erf(x), in x's dtype and layout, to within 2^-18. x: any float dtype."""
    size = x.float().abs()
    total = size * ERF[-1]
    for factor in reversed(ERF[:-1]):
        total = (total + factor) * size
    power = total + 1.0
    for _ in range(4):
        power = power * power
    value = 1.0 - 1.0 / power
    return torch.where(x < 0, -1.0 * value, value).to(x.dtype)


@define(_fake)
def short_tanh(x: Tensor) -> Tensor:
    """tanh(x), in x's dtype and layout, to within 2^-22. x: any float dtype."""
    return (torch.sigmoid(x.float() * 2.0) * 2.0 - 1.0).to(x.dtype)
