"""Reduces a large gradient to few numbers whose inner products are about those of the whole gradient.

A count sketch (Charikar, Chen and Farach-Colton, "Finding frequent items in data streams", ICALP 2002): element i is
added, with a random sign, to bucket i modulo the number of buckets. It is linear, so that the difference of two
sketches is that of the gradients; unlike a sample, it sees a few rows that are large beside the others.
"""

from __future__ import annotations

import torch

# The relative error of an inner product is about 1 / sqrt(BUCKETS).
BUCKETS = 2**16


def sketched(value: torch.Tensor) -> torch.Tensor:
    """The sketch of a tensor of any shape: BUCKETS numbers, float32 or wider, on its device.

    A tensor of at most BUCKETS numbers is returned unchanged. The signs are the same in each call; torch's random
    state is neither read nor changed.
    """
    if value.numel() <= BUCKETS:
        return value
    flat = value.reshape(-1)
    generator = torch.Generator().manual_seed(0)
    signs = (torch.randint(2, (2 * BUCKETS,), generator=generator) * 2 - 1).to(flat.device, torch.int8)
    shifts = torch.randint(BUCKETS, (-(-flat.numel() // BUCKETS),), generator=generator).tolist()
    total = torch.zeros(BUCKETS, dtype=torch.promote_types(flat.dtype, torch.float32), device=flat.device)
    for piece, shift in zip(flat.split(BUCKETS), shifts, strict=True):
        total[: len(piece)] += piece * signs[shift : shift + len(piece)]
    return total
