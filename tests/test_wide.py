"""Statistics of several vectors of channels at a time: the same bits as Inductor's own."""

from __future__ import annotations

import contextlib
import re

import pytest
import torch
from torch import Tensor
from torch._inductor.cpu_vec_isa import pick_vec_isa

from approx_fx.host import inductor
from approx_fx.host.wide import lanes
from approx_fx.host.wrapper import generated_code


@pytest.mark.parametrize(
    ("kept", "steps", "base", "threads", "expected"),
    [
        ([64], 65536, 8, 2, 32),  # the sum itself is shared among threads
        ([48], 16384, 8, 2, 16),
        ([128], 32768, 8, 2, 8),  # the channels are, if more than the sum is in the loop over them
        ([16], 65536, 8, 2, 16),
        ([20], 65536, 8, 2, 8),
        ([64], 65536, 16, 2, 32),  # AVX-512
        ([512], 4096, 8, 2, 32),  # the channels are
        ([512], 4096, 8, 64, 8),  # 16 blocks of channels would leave 48 threads idle
        ([96], 600, 8, 2, 16),  # three blocks for two threads; six
        ([128], 4096, 8, 2, 8),  # with fewer blocks, threads would share the sum instead
        ([4, 64], 1024, 8, 2, 32),
    ],
)
def test_how_many_channels_go_at_once(kept: list[int], steps: int, base: int, threads: int, expected: int) -> None:
    assert lanes(kept, steps, base, threads) == expected


def _statistics(x: Tensor) -> tuple[list[Tensor], str]:
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True), generated_code() as sources:
        found = torch.compile(lambda x: list(torch.var_mean(x, [0, 2, 3])), backend="approx_fx", dynamic=False)(x)
    return found, "".join(sources)


CASES = [
    ((64, 32), torch.float32),
    ((48, 16), torch.float32),
    ((512, 8), torch.float32),
    ((20, 16), torch.float32),
    ((64, 16), torch.bfloat16),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
def test_every_bit_is_the_same(
    shape: tuple[int, int], dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Around 1000, so that the last digits matter; with a channel of NaN and one of Inf."""
    torch.manual_seed(0)
    channels, size = shape
    x = (torch.randn(64, channels, size, size) + 1000).to(memory_format=torch.channels_last).to(dtype)
    x[3, 1, 2, 2], x[3, 2, 2, 2] = float("nan"), float("inf")
    x.requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found, source = _statistics(x)
        monkeypatch.setattr(inductor, "wide_statistics", contextlib.nullcontext)
        theirs, plain = _statistics(x)
    finally:
        torch.set_num_threads(before)
    vector = pick_vec_isa().nelements()  # 8 with AVX2; 16 with AVX-512, and 48 channels are no pairs of vectors
    expected = channels % (2 * vector) == 0
    assert ("welford_chunk" in source) == expected and "welford_chunk" not in plain
    wide = {int(count) for count in re.findall(r"Welford<at::vec::VectorizedN<float,(\d)>>", source)}
    assert wide == {2} if dtype == torch.bfloat16 else bool(wide) == expected
    for mine, other in zip(found, theirs, strict=True):
        assert torch.equal(mine.isnan(), other.isnan())
        assert torch.equal(mine.nan_to_num(7.0), other.nan_to_num(7.0))
