"""Codes are converted vector by vector in Inductor's C++, also where a loop takes several vectors a step."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.codegen.cpp import CppVecKernel
from torch._inductor.cpu_vec_isa import pick_vec_isa

import approx_fx
from approx_fx.inductor import code_conversion
from approx_fx.inductor.switches import VARIABLE
from approx_fx.peak.dry_run import generated_code

SLOW = ("at::vec::convert<int32_t,2,uint8_t,1>", "at::vec::convert<float,2,int32_t,2>")


def net(activation: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(512, 512), activation(), nn.Linear(512, 512), activation(), nn.Linear(512, 32))


def step(activation: type[nn.Module] = nn.GELU) -> tuple[str, list[Tensor]]:
    """The code of a compiled step, and its gradients."""
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True), generated_code() as sources:
        model = approx_fx.convert(net(activation), bits=4)
        model(torch.linspace(-2, 2, 24 * 512).reshape(24, 512)).square().sum().backward()
    return "\n".join(sources), [parameter.grad for parameter in model.parameters()]


@pytest.mark.cpp
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="needs vectors of AVX2 or AVX-512",
)
def test_codes_are_converted_vector_by_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without our expressions the code has ATen's element by element; with them it does not, and no bit differs."""
    quick, gradients = step()
    assert not any(slow in quick for slow in SLOW) and "VectorizedN<float,2> r" in quick
    monkeypatch.setenv(VARIABLE, "code_conversion")
    slow, expected = step()
    assert all(each in slow for each in SLOW)
    assert all(map(torch.equal, gradients, expected))


def test_other_conversions_are_atens() -> None:
    assert code_conversion.convert_expr("x", torch.int32, torch.float32, (1, 1)) is None
    assert code_conversion.convert_expr("x", torch.uint8, torch.int32, (1, 1)) is None
    assert code_conversion.convert_expr("x", torch.uint8, torch.int32, (2, 4)) is None
    assert code_conversion.convert_expr("x", torch.float32, torch.uint8, (2, 1)) is None


def test_sixteen_codes_stay_in_a_register_on_avx2() -> None:
    sixteen = (torch.uint8, torch.int32, (1, 2))
    on_avx2 = code_conversion.convert_expr("x", *sixteen, "VecAVX2")
    assert on_avx2 is not None and "_mm256_cvtepu8_epi32" in on_avx2 and "store" not in on_avx2
    assert "store" in str(code_conversion.convert_expr("x", *sixteen, "VecAVX512"))
    assert "store" in str(code_conversion.convert_expr("x", torch.uint8, torch.int32, (1, 4), "VecAVX2"))


def test_the_method_that_is_replaced() -> None:
    parameters = list(inspect.signature(CppVecKernel.get_to_dtype_expr).parameters)
    assert parameters[:4] == ["self", "src", "dtype", "src_dtype"]


def test_codes_are_loaded_without_a_way_through_memory() -> None:
    line = "at::vec::Vectorized<uint8_t>::loadu(in_ptr0 + static_cast<int64_t>(x0 + 64L*x1), static_cast<int64_t>({}))"
    place = "in_ptr0 + static_cast<int64_t>(x0 + 64L*x1)"
    assert (
        code_conversion.load_expr(line.format(8), "VecAVX2")
        == f"at::vec::Vectorized<uint8_t>::loadu_one_fourth({place})"
    )
    assert f"_mm_loadu_si128((const __m128i*)({place}))" in code_conversion.load_expr(line.format(16), "VecAVX2")
    for other in (line.format(5), line.format(8).replace("uint8_t", "float")):
        assert code_conversion.load_expr(other, "VecAVX2") == other
    assert code_conversion.load_expr(line.format(16), "VecAVX512") == line.format(16)


@pytest.mark.skipif(type(pick_vec_isa()).__name__ != "VecAVX2", reason="only AVX2's loads are replaced")
@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
def test_no_bit_differs_by_the_short_loads(activation: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    quick, gradients = step(activation)
    assert "loadu_one_fourth(" in quick or "_mm_loadu_si128(" in quick
    assert not re.search(r"Vectorized<uint8_t>::loadu\([^;]*int64_t>\((8|16)\)\)", quick)
    monkeypatch.setattr(code_conversion, "SHORT_LOADS", ())
    slow, expected = step(activation)
    assert "Vectorized<uint8_t>::loadu(" in slow
    assert all(map(torch.equal, gradients, expected))


def test_the_load_that_is_replaced() -> None:
    assert list(inspect.signature(CppVecKernel._get_vec_load_line).parameters)[:4] == ["self", "var", "index", "dtype"]
