"""What hypothesis draws for the ops: tensors of all layouts, tiles, widths; and the bounds of their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from approx_fx.ops import channel
from approx_fx.ops.pack import dense_strides, memory_order

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# float32's unit roundoff: the references compute in float32, in no more than eight rounded steps.
ROUNDOFF = 2.0**-24

quick = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
widths = st.integers(1, 8)


def strided(x: Tensor, layout: str, place: int) -> Tensor:
    """The same values as x, for an expanded layout but the first of a dimension's, with other strides."""
    dim = place % x.ndim
    if layout == "permuted":
        order = [*range(dim, x.ndim), *range(dim)][:: 1 if place % 2 else -1]
        return x.permute(order).contiguous().permute([order.index(index) for index in range(x.ndim)])
    if layout == "sliced":
        return torch.cat([x, x], dim).narrow(dim, x.shape[dim] // 2, x.shape[dim]).roll(1, dim)
    if layout == "stepped":
        return torch.stack([x, x], x.ndim)[..., 1]
    if layout == "expanded":
        return x.narrow(dim, 0, min(x.shape[dim], 1)).expand(x.shape)
    if layout == "channels last" and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x


@st.composite
def tensors(draw: st.DrawFn, special: bool = False, positive: bool = False, unit: bool = False) -> Tensor:
    """A tensor of one to four dimensions of length 0 to 9; if special, some of its elements NaN or Inf."""
    shape = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
    dtype = draw(st.sampled_from(FLOATS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    if unit:
        x = torch.rand(shape, generator=generator) * 2 - 1
        x = torch.where(torch.rand(shape, generator=generator) < 0.2, x.sign(), x)
    else:
        # Magnitudes that the scales' bfloat16 holds as normal numbers, and that float16 can decode.
        powers = (-3, 3) if dtype == torch.float16 else (-30, 30)
        size = draw(st.integers(*powers)) + draw(st.sampled_from([0.0, 0.0, 1.0])) * torch.randn(
            shape, generator=generator
        ).clamp(-1, 1)
        x = torch.randn(shape, generator=generator).clamp(-5, 5) * 10**size
        x = x + draw(st.sampled_from([0.0, 0.0, 1.0, -4.0])) * 10.0 ** float(size.mean() if x.numel() else 0.0)
        x = torch.where(torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.2, 1.0])), 0.0, x)
    x = x.relu() if positive else x
    if special and x.numel():
        places = torch.randint(0, x.numel(), (draw(st.integers(1, 3)),), generator=generator)
        values = draw(st.sampled_from([math.nan, math.inf] if positive else [math.nan, math.inf, -math.inf]))
        x = x.reshape(-1).index_fill(0, places, values).reshape(shape)
    layout = draw(st.sampled_from(["contiguous", "permuted", "sliced", "stepped", "expanded", "channels last"]))
    return strided(x.to(dtype), layout, draw(st.integers(0, 7)))


@dataclass(frozen=True)
class Tiling:
    """How tiles lie in a tensor: `group` neighbours along dim, everything along `over`."""

    dim: int
    group: int
    over: list[int]

    @classmethod
    def draw(cls, data: st.DataObject, x: Tensor) -> Tiling:
        dim = data.draw(st.integers(0, x.ndim - 1), label="dim")
        size = x.shape[dim]
        group = data.draw(
            st.sampled_from([part for part in range(1, size + 1) if size % part == 0] or [1]), label="group"
        )
        others = [index for index in range(x.ndim) if index != dim]
        return cls(
            dim, group, data.draw(st.lists(st.sampled_from(others), unique=True), label="over") if others else []
        )

    def spread(self, scale: Tensor, x: Tensor) -> Tensor:
        """A scale's value for each element of x."""
        split = x.unflatten(self.dim, (x.shape[self.dim] // self.group, self.group))
        return scale.expand(split.shape).flatten(self.dim, self.dim + 1)

    def of_any(self, marked: Tensor) -> Tensor:
        """bool: whether an element's tile holds a marked one."""
        split = marked.unflatten(self.dim, (marked.shape[self.dim] // self.group, self.group))
        for index in [self.dim + 1, *(index + (index > self.dim) for index in self.over)]:
            split = split.any(index, keepdim=True)
        return self.spread(split, marked)


def place(data: st.DataObject, x: Tensor, label: str) -> int:
    return data.draw(st.integers(0, x.ndim - 1), label=label)


def allowance(low: Tensor | float, step: Tensor | float, bits: int, decoded: Tensor) -> Tensor:
    """What rounding may add to half a step: of float32 arithmetic, and of the result to its dtype."""
    info = torch.finfo(decoded.dtype)
    arithmetic = 8 * ROUNDOFF * (abs(low) + 2**bits * abs(step))
    return arithmetic + decoded.double().abs() * info.eps / 2 + info.smallest_normal * info.eps


def assert_within(
    decoded: Tensor, x: Tensor, low: Tensor | float, step: Tensor | float, bits: int, where: Tensor
) -> None:
    """Where `where` holds, x lies within half a step of what was decoded for it."""
    error = (decoded.double() - x.double()).abs()
    bound = 0.5 * torch.as_tensor(step).abs() + allowance(low, step, bits, decoded)
    assert bool((error <= bound)[where].all()), f"{(error / bound)[where].max()} times the bound"


def assert_layout(codes: Tensor, decoded: Tensor, x: Tensor) -> None:
    """Codes and decoded values keep the memory order of the tensor that was quantized, lengths of 1 aside."""
    order = memory_order(x)
    assert decoded.shape == x.shape
    for result in (codes, decoded):
        expected = dense_strides(result.shape, order)
        assert all(size == 1 or result.stride(dim) == expected[dim] for dim, size in enumerate(result.shape))


def channel_rows(
    x: Tensor, dim: int, weight: Tensor | None, bias: Tensor | None, threshold: float | None, bits: int, grid: str
) -> Tensor:
    """The grid of x's own statistics along all dimensions but `dim`."""
    flat = x.double().movedim(dim, 0).flatten(1) if x.ndim > 1 else x.double()[:, None]
    count = max(flat.shape[1], 1)
    mean = flat.sum(1) / count
    rstd = ((flat - mean[:, None]).square().sum(1) / count + 1e-30).rsqrt()
    return channel.channel_grid.overload(mean.float(), rstd.float(), weight, bias, threshold, bits, grid)


def statistics(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """(mean, 1 / sigma) of the rows along `dim`, as a layer norm has them."""
    if x.shape[dim] == 0:
        return x.float().sum(dim, keepdim=True), x.float().sum(dim, keepdim=True) + 1
    variance, mean = torch.var_mean(x.float(), dim, correction=0, keepdim=True)
    return mean, torch.rsqrt(variance + 1e-5)
