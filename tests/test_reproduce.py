"""The paper's experiments: their small parts."""

from __future__ import annotations

import pytest
import torch

from approx_fx.ops.channel import step_in_sigmas
from tools.reproduce import equation9


@pytest.mark.parametrize("bits", equation9.BITS)
@pytest.mark.parametrize("grid", equation9.GRIDS)
def test_equation_9_keeps_the_mask_and_stays_within_half_a_step(bits: int, grid: str) -> None:
    step = step_in_sigmas(bits, grid)
    z = torch.linspace(-1.4 * step, 1.4 * step, 101)
    value, mask = equation9.read_back(z, bits, grid, offset=0.0)
    assert torch.equal(mask, z > 0)
    near = z.abs() < 2 ** (bits - 1) * step
    assert bool(((value - z).abs()[near] <= step / 2 + 1e-5).all())


def test_our_grid_is_no_worse_at_any_number_of_bits() -> None:
    ours, theirs = equation9.errors("gaussian"), equation9.errors("blpa")
    assert all(ours[bits] <= theirs[bits] for bits in equation9.BITS)
