"""Our ops as Inductor lowers them by their references: the same bits as when it is given the references' aten ops."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config
from torch._inductor.lowering import lowerings
from torch._inductor.utils import run_and_get_code
from torch.utils._pytree import tree_leaves

import approx_fx
from approx_fx.inductor.compile import load
from approx_fx.inductor.lowering import FUNCTIONS, IRTensor
from approx_fx.ops import OPS, channel
from approx_fx.peak.dry_run import generated_code
from tests.ops.test_ops import STATISTICS, X, opcheck_cases

BITMASK = torch.ops.approx_fx.quantize_bitmask.default


def grid(bits: int) -> Tensor:
    result: Tensor = channel.channel_grid.reference(*STATISTICS, 0.0, bits, "gaussian")
    return result


WIDTHS = [
    *[("quantize_channel", (X, grid(bits), X > 0, bits, 1, 0)) for bits in range(1, 9)],
    *[("quantize_group", (X, bits, 1, 2, [], 1)) for bits in (2, 8)],
]


def compiled(function: Callable[..., Any], *args: Any) -> tuple[Any, str]:
    torch._dynamo.reset()
    load()
    with config.patch(force_disable_caches=True):
        result, (code,) = run_and_get_code(torch.compile(function, fullgraph=True, dynamic=False), *args)
    return result, code


@pytest.mark.cpp
def test_every_op_comes_out_as_its_reference() -> None:
    """Bit for bit, but for the scales of `quantize_group`, whose last digit Inductor rounds once less: half a step."""
    cases = [*opcheck_cases(), *WIDTHS]
    assert {name for name, _ in cases} == set(OPS)
    given = [[item for item in arguments if isinstance(item, Tensor)] for _, arguments in cases]

    def run(tensors: list[list[Tensor]]) -> list[Any]:
        results = []
        for (name, arguments), own in zip(cases, tensors, strict=True):
            left = list(own)
            results.append(OPS[name].overload(*[left.pop(0) if isinstance(a, Tensor) else a for a in arguments]))
        return results

    found, code = compiled(run, given)
    assert "approx_fx" not in re.sub(r"(?m)#.*", "", code)
    for (name, arguments), result in zip(cases, found, strict=True):
        for mine, eager in zip(*map(tree_leaves, (result, OPS[name].reference(*arguments))), strict=True):
            assert (mine.shape, mine.stride(), mine.dtype) == (eager.shape, eager.stride(), eager.dtype), name
            if name != "quantize_group":
                torch.testing.assert_close(mine, eager, rtol=0, atol=0, equal_nan=True, msg=name)
        if name == "quantize_group":
            x, bits, dim, size, _, pack_dim = arguments
            x = x.float()
            decode = OPS["dequantize_group"].reference
            values = decode(*result, bits, dim, size, pack_dim, x.shape[pack_dim], torch.float32)
            step = result[1][1].float().expand(2, 2, 2, 3, 3).reshape(x.shape)
            assert ((values - x).abs() <= step * (0.5 + 2.0**-7 * 2**bits)).all(), bits


def test_an_op_fuses_with_its_neighbours() -> None:
    def run(x: Tensor) -> Tensor:
        codes: Tensor = BITMASK(x.tanh() > 0, 0)
        return codes + 1

    _, code = compiled(run, torch.rand(64, 64))
    assert code.count("= async_compile.cpp_pybinding(") == 1


def test_lowerings_are_of_our_ops_alone() -> None:
    """Registered once: a second call changes nothing, and no op of torch's is lowered in another way."""
    load()
    before = dict(lowerings)
    load()
    assert dict(lowerings) == before
    ours = [op for op in lowerings if "approx_fx" in str(getattr(lowerings[op], "__module__", ""))]
    assert ours == [] or all(str(op).startswith("approx_fx") for op in ours)
    assert {op.overload for op in OPS.values()} <= lowerings.keys()


def test_a_method_without_a_lowering_says_where_to_add_it() -> None:
    with pytest.raises(AttributeError, match=r"no lowering is known for Tensor.erf; add it to METHODS in approx_fx"):
        torch.erf(IRTensor(None, FUNCTIONS))  # type: ignore[arg-type]


def test_codes_are_kept_whole_before_they_are_packed() -> None:
    """Else each half of the packed dimension is a loop of its own, over what the codes are computed from."""
    a, b = torch.rand(2, 64, 8, 4, 4)

    def run(a: Tensor, b: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        x = a * 3 + b
        return x.relu(), torch.ops.approx_fx.quantize_channel.default(x, grid, x > 0, 4, 1, 0)

    _, code = compiled(run, a, b, grid(4).repeat(1, 2))
    assert f"empty_strided_cpu({tuple(a.shape)}, {tuple(a.stride())}, torch.uint8)" in code


@pytest.mark.cpp
def test_codes_that_are_kept_lie_as_their_source_does() -> None:
    """Convolutions are laid out channels-last, and with them what is computed from them element by element.

    At 3 bits, whose planes are packed in parts of different lengths, codes are kept.
    """
    layers = [nn.Conv2d(64, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, bias=False)]
    model = approx_fx.convert(nn.Sequential(*layers), bits=3)
    with config.patch(force_disable_caches=True), generated_code() as sources:
        model(torch.randn(16, 64, 16, 16)).sum().backward()
    found = re.findall(r"empty_strided_cpu\(\(16, 64, 14, 14\), (\(.*?\)), torch.uint8\)", sources[0])
    assert set(found) == {"(12544, 1, 896, 64)"}
