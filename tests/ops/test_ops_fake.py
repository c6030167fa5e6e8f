"""Every op on strided tensors: values do not depend on strides, fake implementations are as the real ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from approx_fx.ops import OPS, channel
from tests.support.strategies import Tiling, channel_rows, place, quick, statistics, tensors, widths


@quick
@given(data=st.data(), x=tensors(special=True), bits=widths)
def test_values_do_not_depend_on_strides(data: st.DataObject, x: Tensor, bits: int) -> None:
    for name, arguments in quantizers(data, x, bits):
        plain = [value.contiguous() if isinstance(value, Tensor) else value for value in arguments]
        torch.testing.assert_close(
            OPS[name].overload(*arguments),
            OPS[name].overload(*plain),
            rtol=0,
            atol=0,
            equal_nan=True,
            check_stride=False,
        )


def quantizers(data: st.DataObject, x: Tensor, bits: int) -> list[tuple[str, list[Any]]]:
    """Every op that encodes x, with arguments."""
    tiling, packed = Tiling.draw(data, x), place(data, x, "pack_dim")
    rows = channel_rows(x, tiling.dim, None, None, 0.0, bits, "gaussian")
    side = x > 0
    return [
        ("quantize_channel", [x, rows, side, bits, tiling.dim, packed]),
        ("quantize_group", [x, bits, tiling.dim, tiling.group, tiling.over, packed]),
        ("quantize_relu", [x.relu(), side, bits, tiling.dim, tiling.group, tiling.over, packed]),
        ("quantize_unit", [x, -1.0, 1.0, bits, packed]),
        ("quantize_bitmask", [side, packed]),
        ("quantize_row", [x, *statistics(x, tiling.dim), bits, "gaussian", packed]),
        ("quantize_index", [(x > 0).to(torch.int8), bits, packed]),
        ("quantize_stochastic", [x, None, torch.tensor(7), bits, tiling.dim, tiling.group, tiling.over, packed]),
    ]


def decoders(name: str, arguments: list[Any], stored: list[Tensor]) -> list[tuple[str, list[Any]]]:
    """Every op that decodes what the quantizer `name` stored, with arguments."""
    x, packed = arguments[0], arguments[-1]
    length, dtype = x.shape[packed], x.dtype
    if name == "quantize_channel":
        _, rows, _, bits, dim, _ = arguments
        return [
            ("dequantize_channel", [*stored, rows, bits, dim, packed, length, dtype]),
            ("dequantize_channel_side", [*stored, rows, bits, dim, packed, length]),
        ]
    if name in ("quantize_group", "quantize_relu"):
        bits, dim, group = arguments[-5:-2]
        found = [(f"de{name}", [*stored, bits, dim, group, packed, length, dtype])]
        if name == "quantize_relu":
            found.append(("dequantize_relu_side", [stored[0], bits, packed, length]))
        return found
    if name == "quantize_row":
        _, mean, rstd, bits, grid, _ = arguments
        return [("dequantize_row", [*stored, mean, rstd, False, bits, grid, packed, length, dtype])]
    if name == "quantize_index":
        return [("dequantize_index", [*stored, arguments[1], packed, length, dtype])]
    if name == "quantize_stochastic":
        _, _, _, bits, dim, group, *_ = arguments
        return [("dequantize_stochastic", [*stored, False, bits, dim, group, packed, length, dtype])]
    if name == "quantize_unit":
        return [("dequantize_unit", [*stored, *arguments[1:4], packed, length, dtype])]
    return [("dequantize_bitmask", [*stored, packed, length])]


def outputs(result: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


@pytest.mark.cpp
@quick
@given(data=st.data(), x=tensors(), bits=widths)
def test_fake_is_as_real(data: st.DataObject, x: Tensor, bits: int) -> None:
    """The fake implementations give the shapes, dtypes and strides of the real ones, for encoders and decoders."""
    for name, arguments in quantizers(data, x, bits):
        stored = outputs(OPS[name].overload(*arguments))
        for op, given_ in [(name, arguments), *decoders(name, arguments, stored)]:
            mode = FakeTensorMode()
            faked = [mode.from_tensor(value) if isinstance(value, Tensor) else value for value in given_]
            with mode:
                fake = outputs(OPS[op].overload(*faked))
            real = outputs(OPS[op].overload(*given_))
            for one, other in zip(fake, real, strict=True):
                assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride()), op


@quick
@given(data=st.data(), x=tensors(), bits=widths)
def test_channel_grid_fake_is_as_real(data: st.DataObject, x: Tensor, bits: int) -> None:
    mean, rstd = x, x.abs() + 1
    real = channel.channel_grid.overload(mean, rstd, None, None, 0.0, bits, "blpa")
    mode = FakeTensorMode()
    faked = mode.from_tensor(mean), mode.from_tensor(rstd)
    with mode:
        fake = channel.channel_grid.overload(*faked, None, None, 0.0, bits, "blpa")
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
