"""How kernels are launched, without a GPU: each compiles for three generations of NVIDIA GPUs, as the references round.

And of several launches the fastest is found once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed: there are no kernels to launch")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from approx_fx.ops import triton as kernels
from approx_fx.ops.triton import group as group_kernels
from approx_fx.ops.triton import launch, tune

Launch = tuple[Any, dict[str, Any]]


def launches(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bits: int, pack_dim: int) -> list[Launch]:
    """Every kernel with the arguments it is started with, for input and output of this dtype."""
    found: list[Launch] = []

    def record(kernel: Any, programs: int, arguments: dict[str, Any], device: Tensor, warps: int = 4) -> None:
        found.append((kernel, arguments))

    monkeypatch.setattr(launch, "run", record)
    monkeypatch.setattr(group_kernels, "run", record)
    x = torch.zeros(2, 6, 5, 7, dtype=dtype)
    length, side, grid = x.shape[pack_dim], x > 0, torch.ones(4, 6)
    codes = kernels.channel.quantize_channel(x, grid, side, bits, 1, pack_dim)
    kernels.channel.dequantize_channel(codes, grid, bits, 1, pack_dim, length, dtype)
    kernels.channel.dequantize_channel_side(codes, grid, bits, 1, pack_dim, length)
    _, scale = kernels.group.quantize_group(x, bits, 1, 3, [], pack_dim)
    kernels.group.dequantize_group(codes, scale, bits, 1, 3, pack_dim, length, dtype)
    _, scale = kernels.group.quantize_relu(x, side, bits, 1, 3, [2, 3], pack_dim)
    kernels.group.dequantize_relu(codes, scale, bits, 1, 3, pack_dim, length, dtype)
    _, poison = kernels.fixed_range.quantize_unit(x, 0.0, 1.0, bits, pack_dim)
    kernels.fixed_range.dequantize_unit(codes, poison, 0.0, 1.0, bits, pack_dim, length, dtype)
    kernels.bitmask.quantize_bitmask(side, pack_dim)
    kernels.bitmask.dequantize_relu_side(codes, bits, pack_dim, length)
    return found


TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.uint8: "*u8"}


def compiled(kernel: Any, arguments: dict[str, Any], capability: int, fusion: bool = False) -> Any:
    """A kernel compiled for arguments like these, as the launch would on a GPU of that compute capability."""
    signature, constants = {}, {}
    for parameter in kernel.params:
        value = arguments[parameter.name]
        if isinstance(value, Tensor):
            signature[parameter.name] = TYPES[value.dtype]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        elif parameter.is_constexpr or (value == 1 and not parameter.do_not_specialize):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
        else:
            signature[parameter.name] = "i64" if arguments["WIDE"] else "i32"
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(ASTSource(kernel, signature, constants), target=target, options={"enable_fp_fusion": fusion})


# Widths of one, two and three planes, words of 32 and 64 bits; the dimension outside, along and inside the channels.
COMPILED = [
    (80, torch.float32, 3, 0, False),
    (80, torch.bfloat16, 8, 3, False),
    (90, torch.bfloat16, 5, 1, False),
    (90, torch.float32, 7, 0, True),
    (100, torch.float16, 4, 3, False),
]


@pytest.mark.triton
@pytest.mark.parametrize(("capability", "dtype", "bits", "pack_dim", "wide"), COMPILED)
def test_compiles(
    capability: int,
    dtype: torch.dtype,
    bits: int,
    pack_dim: int,
    wide: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    if wide:
        monkeypatch.setattr(launch, "WIDE_FROM", 0)
        monkeypatch.setattr(group_kernels, "WIDE_FROM", 0)
    found = launches(monkeypatch, dtype, bits, pack_dim)
    assert len(found) == 13 and len({kernel.fn for kernel, _ in found}) == 9
    for kernel, arguments in found:
        code = compiled(kernel, arguments, capability)
        ptx = code.asm["ptx"]
        assert f".target sm_{capability}" in ptx
        assert code.asm["cubin"][:4] == b"\x7fELF"
        # What would round otherwise than the references: contraction, approximate division, flushed subnormals.
        for wrong in ("fma.rn", "div.full", "div.approx", "rcp.approx", ".ftz", "mad.rn.f32"):
            assert wrong not in ptx, f"{kernel.fn.__module__}.{kernel.fn.__name__}: {wrong}"


def test_fusion_would_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the launch option the compiler does contract: the check for `fma` above can fail."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = launches(monkeypatch, torch.float32, 3, 0)
    kernel, arguments = next((kernel, arguments) for kernel, arguments in found if kernel.fn.__name__ == "_dequantize")
    assert "fma.rn" in compiled(kernel, arguments, 90, fusion=True).asm["ptx"]


def test_launch_forbids_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda **arguments: given.update(arguments, grid=grid)

    launch.run(Kernel(), 7, {"x": 1}, torch.zeros(1))
    assert given == {"grid": (7,), "x": 1, "enable_fp_fusion": False, "num_warps": 4}


def test_the_fastest_launch_is_found_once() -> None:
    """Large launches are timed, small ones and those that a graph records are not; each launches exactly once more."""
    launched: list[tune.Choice] = []
    clocked: list[tune.Choice] = []

    def clock(launch: Callable[[], None]) -> float:
        launch()
        clocked.append(launched.pop())
        return abs(clocked[-1].block - 256) + clocked[-1].warps

    tuner, options = tune.Tuner(clock), tune.choices(8)
    tuner.run(("a",), tune.SMALL - 1, options, launched.append, still=False)
    tuner.run(("a",), tune.SMALL, options, launched.append, still=True)
    assert launched == [options[0]] * 2 and not clocked and not tuner.fastest
    tuner.run(("a",), tune.SMALL, options, launched.append, still=False)
    tuner.run(("a",), tune.SMALL, options, launched.append, still=True)
    assert clocked == list(options) and launched[2:] == [tune.Choice(256, 4)] * 2


def test_kinds_of_launches() -> None:
    """One kind: the same kernel, constants, types and size to a power of two; scalars do not matter."""

    def kind(slots: int, dtype: torch.dtype, bits: int, inner: int) -> Any:
        arguments = {"x": torch.zeros(1, dtype=dtype), "inner": inner, "BITS": bits}
        return tune.kind(kernels.channel._quantize, slots, arguments)

    first = kind(1000, torch.float32, 4, 1)
    assert first == kind(1023, torch.float32, 4, 7)
    assert first not in [
        kind(1024, torch.float32, 4, 1),
        kind(1000, torch.float16, 4, 1),
        kind(1000, torch.float32, 2, 1),
    ]
