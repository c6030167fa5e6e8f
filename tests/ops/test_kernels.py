"""Triton kernels against their references, bit for bit: on a GPU, or else in Triton's interpreter, a process apart."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from tests.support import interpreted

pytest.importorskip("triton", reason="triton is not installed: there are no kernels to test")

import triton

from approx_fx.ops import OPS
from approx_fx.ops import triton as kernels
from approx_fx.ops.triton import group as group_kernels
from approx_fx.ops.triton import launch
from approx_fx.ops.triton.launch import Order
from approx_fx.ops.triton.tiles import Tiles

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
NO_DEVICE = DEVICE == "cpu" and not INTERPRETED

runs_kernels = pytest.mark.skipif(NO_DEVICE, reason="no GPU: test_in_the_interpreter runs this in a process apart")
every_width = pytest.mark.parametrize("bits", range(1, 9))

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EMPTY = ((3, 0, 2, 2), (0, 2, 3, 3))
SHAPES = ((1, 1, 1, 1), (2, 4, 3, 5), (1, 6, 7, 3), (9, 4, 1, 1), (5, 2, 16, 17), (17, 6, 3, 8), *EMPTY)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
    "sliced": lambda x: torch.cat([x, x], 3)[..., ::2],
    "expanded": lambda x: x[:1].expand(x.shape[0], -1, -1, -1),
}


def kernel_of(name: str) -> Callable[..., Any]:
    """The op as registered for CUDA; in the interpreter, which has no CUDA tensors, the registered function itself."""
    if DEVICE == "cuda":
        return OPS[name].overload
    module = next(getattr(kernels, part) for part in kernels.__all__ if hasattr(getattr(kernels, part), name))
    return getattr(module, name)


def assert_same(actual: Tensor, expected: Tensor, case: str) -> None:
    """Equal shapes, dtypes, strides and values, where NaN equals NaN and 0 equals -0."""
    assert (actual.shape, actual.dtype, actual.stride()) == (expected.shape, expected.dtype, expected.stride()), case
    unequal = (actual.cpu() != expected) & ~((actual.cpu() != actual.cpu()) & (expected != expected))
    assert not unequal.any(), f"{case}: {int(unequal.sum())} of {unequal.numel()} differ"


def on_device(value: Any) -> Any:
    """A tensor on the device with the strides it has, also where elements overlap or leave gaps; else the value."""
    if not isinstance(value, Tensor):
        return value
    whole = value.as_strided((value.untyped_storage().nbytes() // value.element_size(),), (1,), 0)
    return whole.to(DEVICE).as_strided(value.shape, value.stride(), value.storage_offset())


def check(name: str, *arguments: Any, case: str) -> Any:
    """The reference's outputs on the CPU, after comparing them with the kernel's."""
    expected = OPS[name].reference(*arguments)
    actual = kernel_of(name)(*map(on_device, arguments))
    outputs = (actual, expected) if isinstance(expected, tuple) else ((actual,), (expected,))
    for one, other in zip(*outputs, strict=True):
        assert_same(one, other, f"{name} {case}")
    return expected


def values(shape: tuple[int, ...], dtype: torch.dtype, seed: int, special: bool) -> Tensor:
    """Normal values of unlike magnitudes, some exact zeros; if special with NaN, Inf and subnormals among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * 10 ** torch.randint(-2, 3, shape, generator=generator).float()
    x = torch.where(torch.rand(shape, generator=generator) < 0.1, 0.0, x)
    if special and x.numel() > 8:
        places = torch.randperm(x.numel(), generator=generator)[:5]
        x.view(-1)[places] = torch.tensor([float("nan"), float("inf"), float("-inf"), 1e-40, -1e-40])
    return x.to(dtype)


def inputs(bits: int) -> Iterator[tuple[str, Tensor, torch.dtype]]:
    """(description, input, output dtype): every fourth pair of a shape and a layout, the dtypes taking turns."""
    for seed, (shape, layout) in enumerate(itertools.product(SHAPES, LAYOUTS)):
        turn, rest = divmod(seed + bits, 4)
        if rest == 0:
            dtype = DTYPES[turn % 3]
            x = LAYOUTS[layout](values(shape, dtype, seed + 100 * bits, special=(seed // 5 + bits // 2) % 2 == 0))
            yield f"{layout} {list(shape)} {dtype} {bits} bits", x, DTYPES[(turn + turn // 3) % 3]


@runs_kernels
@every_width
def test_channel(bits: int) -> None:
    for index, (case, x, dtype) in enumerate(inputs(bits)):
        generator = torch.Generator().manual_seed(index)
        channels = x.shape[1]
        mean, weight, bias = (torch.randn(channels, generator=generator) for _ in range(3))
        rstd = torch.rand(channels, generator=generator) + 0.1
        if channels > 2:
            weight[0], rstd[1], mean[2] = 0.0, float("nan"), float("inf")
        grid = OPS["channel_grid"].reference(mean, rstd, weight, bias, 0.0, bits, "gaussian")
        side = None if index // 2 % 3 == 0 else x > 0.3
        if index // 2 % 3 == 2 and side is not None:
            side = side.contiguous()
        pack_dim = index % 4
        case = f"{case} packed along {pack_dim}"
        codes = check("quantize_channel", x, grid, side, bits, 1, pack_dim, case=case)
        length = x.shape[pack_dim]
        check("dequantize_channel", codes, grid, bits, 1, pack_dim, length, dtype, case=case)
        check("dequantize_channel_side", codes, grid, bits, 1, pack_dim, length, case=case)


def tilings(x: Tensor) -> Iterator[tuple[int, int, list[int]]]:
    """(dim, group, over): tiles over a part of the channels and all places, over neighbours, over everything, ..."""
    if 0 in x.shape:
        yield 1, max(x.shape[1], 1), [2, 3]
        return
    half = max(x.shape[1] // 2, 1)
    yield 1, half, [2, 3]
    yield 1, half, []
    yield 3, x.shape[3], []
    yield 1, x.shape[1], [0, 2, 3]
    yield 0, 1, [2]
    yield 1, half, [1]
    yield 2, x.shape[2], [0]


@runs_kernels
@every_width
def test_group(bits: int) -> None:
    for index, (case, x, dtype) in enumerate(inputs(bits)):
        for number, (dim, group, over) in list(enumerate(tilings(x)))[(index + index // 3) % 3 :: 3]:
            pack_dim = (index + number) % 4
            named = f"{case} packed along {pack_dim}, tiles of {group} along {dim} over {over}"
            codes, scale = check("quantize_group", x, bits, dim, group, over, pack_dim, case=named)
            length = x.shape[pack_dim]
            check("dequantize_group", codes, scale, bits, dim, group, pack_dim, length, dtype, case=named)


@runs_kernels
@every_width
def test_relu(bits: int) -> None:
    for index, (case, x, dtype) in enumerate(inputs(bits)):
        x = torch.relu(x)
        side = None if index % 2 == 0 else (x > 0).contiguous()
        for number, (dim, group, over) in list(enumerate(tilings(x)))[(index + index // 3) % 3 :: 3]:
            pack_dim = (index + number) % 4
            named = f"{case} packed along {pack_dim}, tiles of {group} along {dim} over {over}"
            codes, scale = check("quantize_relu", x, side, bits, dim, group, over, pack_dim, case=named)
            length = x.shape[pack_dim]
            check("dequantize_relu", codes, scale, bits, dim, group, pack_dim, length, dtype, case=named)
            check("dequantize_relu_side", codes, bits, pack_dim, length, case=named)


@runs_kernels
@every_width
def test_unit(bits: int) -> None:
    for index, (case, x, dtype) in enumerate(inputs(bits)):
        low, high = ((0.0, 1.0), (-1.0, 1.0), (-0.3, 0.7))[index % 3]
        pack_dim = index % 4
        codes, poison = check("quantize_unit", x, low, high, bits, pack_dim, case=case)
        check("dequantize_unit", codes, poison, low, high, bits, pack_dim, x.shape[pack_dim], dtype, case=case)
        poison = torch.tensor([float("nan")])
        check("dequantize_unit", codes, poison, low, high, bits, pack_dim, x.shape[pack_dim], dtype, case=case)


@runs_kernels
def test_bitmask() -> None:
    for case, x, _ in inputs(1):
        for pack_dim in range(4):
            named = f"{case} packed along {pack_dim}"
            codes = check("quantize_bitmask", x > 0.2, pack_dim, case=named)
            check("dequantize_bitmask", codes, pack_dim, x.shape[pack_dim], case=named)


@runs_kernels
@pytest.mark.parametrize("shape", [(4099,), (3, 1031), (17, 2, 129)], ids=str)
def test_many_programs(shape: tuple[int, ...]) -> None:
    """Shapes of one to three dimensions that no whole number of programs covers."""
    x = values(shape, torch.float32, 1, special=False)
    last = len(shape) - 1
    for bits, pack_dim in itertools.product((1, 3, 4, 8), (0, last)):
        case = f"{list(shape)} {bits} bits packed along {pack_dim}"
        codes, scale = check("quantize_group", x, bits, last, shape[-1], [], pack_dim, case=case)
        check("dequantize_group", codes, scale, bits, last, shape[-1], pack_dim, shape[pack_dim], x.dtype, case=case)
        codes, poison = check("quantize_unit", x, -1.0, 1.0, bits, pack_dim, case=case)
        check("dequantize_unit", codes, poison, -1.0, 1.0, bits, pack_dim, shape[pack_dim], x.dtype, case=case)


@runs_kernels
@pytest.mark.parametrize("test", [test_channel, test_group], ids=lambda test: test.__name__)
def test_wide_offsets(test: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels' 64-bit offsets, which else only tensors of 2^31 elements get."""
    monkeypatch.setattr(launch, "WIDE_FROM", 0)
    monkeypatch.setattr(group_kernels, "WIDE_FROM", 0)
    test(5)


def free_gpu_memory() -> int:
    """Bytes; 0 where there is no GPU."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0


@pytest.mark.skipif(free_gpu_memory() < 20 * 2**30, reason="2^31 elements and their codes need 20 GB of GPU memory")
def test_more_than_int32_on_a_gpu() -> None:
    """A tensor of more than 2^31 elements decodes near its input to its very end."""
    x = torch.linspace(-1, 1, 2**16, device="cuda", dtype=torch.bfloat16).repeat(2**15 + 8, 1)
    codes, scale = OPS["quantize_group"].overload(x, 4, 1, 256, [], 0)
    back = OPS["dequantize_group"].overload(codes, scale, 4, 1, 256, 0, x.shape[0], x.dtype)
    assert (back[-1] - x[-1]).abs().max() < 0.02
    assert torch.equal(back[0], back[-1])


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETED, reason="the other tests of this file run the kernels directly")
@pytest.mark.skipif(
    version(triton.__version__) < (3, 7) and version(numpy.__version__) >= (2, 4),
    reason="Triton 3.6's interpreter can't loop to a bound under numpy 2.4 and later",
)
def test_in_the_interpreter() -> None:
    """All tests above that run kernels, in a process where Triton interprets them."""
    assert interpreted.passed(__file__) >= 4 * 8


def test_every_op_has_a_kernel() -> None:
    """But those that a CUDA tensor gets the reference of: a channel's number, a tanh, and what Inductor makes fast."""
    registered = {name for name in OPS if torch._C._dispatch_has_kernel_for_dispatch_key(f"approx_fx::{name}", "CUDA")}
    plain = {f"{way}_{name}" for way in ("quantize", "dequantize") for name in ("row", "index", "stochastic")}
    assert registered == set(OPS) - plain - {op.name for op in OPS.values() if op.fused_only} - {"short_tanh"}


def test_tiles_as_four_numbers() -> None:
    order = Order((0, 1, 2, 3))

    def numbers(order: Order, dim: int, group: int, over: list[int]) -> tuple[int, ...] | None:
        tiles = Tiles.of((2, 6, 5, 7), order, dim, group, over)
        return None if tiles is None else (tiles.kept1, tiles.reduced1, tiles.kept2, tiles.reduced2)

    assert numbers(order, 1, 3, [2, 3]) == (4, 105, 1, 1)
    assert numbers(order, 1, 3, []) == (4, 3, 35, 1)
    assert numbers(order, 1, 6, [0, 2, 3]) == (1, 420, 1, 1)
    assert numbers(order, 1, 6, [0]) == (1, 12, 35, 1)
    assert numbers(Order((0, 2, 3, 1)), 1, 3, [2, 3]) == (2, 35, 2, 3)
    assert numbers(order, 1, 3, [0, 3]) is None


@pytest.mark.parametrize("shape", [(0,), (0, 0), (0, 2), (2, 0), (0, 1, 0)], ids=str)
def test_nothing_to_launch(shape: tuple[int, ...]) -> None:
    """Outputs of no elements have the references' shapes and strides; no kernel is started, and so no GPU needed."""
    x = torch.zeros(shape)
    for dim, whole, relu in itertools.product(range(x.ndim), (False, True), (False, True)):
        name, arguments = ("relu", (x, None, 3)) if relu else ("group", (x, 3))
        group = max(shape[dim], 1) if whole else 1
        case = f"{shape} tiles of {group} along {dim}"
        codes, scale = check(f"quantize_{name}", *arguments, dim, group, [], 0, case=case)
        check(f"dequantize_{name}", codes, scale, 3, dim, group, 0, shape[0], x.dtype, case=case)


def test_refuses_what_does_not_fit() -> None:
    """The references' errors, not accesses out of bounds: raised before any launch, and so without a GPU."""
    x, grid, codes = torch.zeros(4, 6, 5), torch.ones(4, 6), torch.zeros(1, 6, 5, dtype=torch.uint8)
    scale = torch.zeros(4, 2, 1, 5, dtype=torch.bfloat16)
    refused: list[tuple[str, tuple[Any, ...]]] = [
        ("quantize_channel", (x, grid[:, :5], None, 2, 1, 0)),
        ("quantize_channel", (x, grid, x[:, :5] > 0, 2, 1, 0)),
        ("dequantize_channel", (codes, grid[:, :5], 2, 1, 0, 4, x.dtype)),
        ("dequantize_channel", (codes, grid, 4, 1, 0, 4, x.dtype)),
        ("quantize_group", (x, 2, 1, 4, [], 0)),
        ("quantize_relu", (x, x[:, :5] > 0, 2, 1, 3, [], 0)),
        ("dequantize_relu", (codes, scale[:3], 2, 1, 3, 0, 4, x.dtype)),
        ("dequantize_relu", (codes, scale, 2, 1, 4, 0, 4, x.dtype)),
        ("dequantize_relu_side", (codes, 4, 0, 4)),
        ("dequantize_bitmask", (codes, 0, 9)),
    ]
    for name, arguments in refused:
        with pytest.raises(RuntimeError):
            OPS[name].reference(*arguments)
        with pytest.raises(RuntimeError):
            kernel_of(name)(*map(on_device, arguments))
