"""Functions of decoded values computed in a few instructions, with an error far below that of any code.

On a CPU, a tanh that is exact to the last digit takes ten or more times as long as an addition; the backward of a
tanh-based GELU has one for the value and one for the derivative of each element.

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
    """tanh(x) with an error below 2^-22, in x's dtype, shape and strides. x: any float dtype."""
    return (torch.sigmoid(x.float() * 2.0) * 2.0 - 1.0).to(x.dtype)
