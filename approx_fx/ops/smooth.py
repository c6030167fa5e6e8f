"""Functions of decoded values in a few instructions: their error is far below that of any code.

On the CPU tanh, exact to the last digit, takes ten times an arithmetic operation's time and more; the backward of a
GELU made of it has one for each element's value and derivative.

    tanh(x) = 2 sigmoid(2 x) - 1
"""

from __future__ import annotations

import torch
from torch import Tensor

from .registry import define


def _fake(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@define(_fake)
def short_tanh(x: Tensor) -> Tensor:
    """tanh(x), in x's dtype and layout, to within 2^-22. x: any float dtype."""
    return (torch.sigmoid(x.float() * 2.0) * 2.0 - 1.0).to(x.dtype)
