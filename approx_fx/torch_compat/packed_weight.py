"""Products of many small matrices with one weight, on a CPU by oneDNN with the weight laid out for it once.

torch.mm lays a weight out again in each call: for 32 rows and a weight of 2048 x 512 that takes as long as the product.
The ops are those that Inductor uses for weights that are frozen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# A smaller weight stays in the nearest cache.
LEAST_NUMEL = 2**16


def can_be_packed(weight: Tensor) -> bool:
    """Whether oneDNN can lay this weight out: float32, on a CPU, large, and not switched off."""
    return bool(
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() >= LEAST_NUMEL
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@dataclass(frozen=True)
class RepeatedProduct:
    """x W' for many x [n, k] and one weight W [m, k]. packed: the weight as oneDNN lays it out, or None."""

    weight: Tensor
    packed: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, rows: int) -> RepeatedProduct:
        """rows: the usual n."""
        if not can_be_packed(weight):
            return cls(weight, None)
        return cls(weight, torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows))

    def write(self, x: Tensor, out: Tensor, add: bool = False) -> None:
        """Write x W' [n, m] to `out`, or add it."""
        if self.packed is None:
            out.addmm_(x, self.weight.t(), beta=int(add))
            return
        product = torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")
        out.add_(product) if add else out.copy_(product)
