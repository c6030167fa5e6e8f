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
    """Return True for a large float32 weight on a CPU, which oneDNN can lay out unless it is switched off."""
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
    """Computes x W' for many matrices x [n, k] and one weight W [m, k].

    packed: the weight in oneDNN's layout, or None where it cannot be laid out and torch.addmm is used.
    """

    weight: Tensor
    packed: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, rows: int) -> RepeatedProduct:
        """Lay the weight [m, k] out if that is possible. rows: n of most of the matrices; others work, too."""
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
