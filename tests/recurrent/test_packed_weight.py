"""Products with one weight by oneDNN: the same as torch.mm's up to rounding, whatever the number of rows."""

from __future__ import annotations

import pytest
import torch

from approx_fx.torch_compat.packed_weight import RepeatedProduct, can_be_packed


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products(dtype: torch.dtype, transposed: bool, add: bool) -> None:
    weight = torch.randn(256, 512, dtype=dtype).t() if transposed else torch.randn(512, 256, dtype=dtype)
    product = RepeatedProduct.of(weight, 32)
    for rows in (32, 7, 1):  # sequences of a packed batch end one after the other
        x, out = torch.randn(rows, 256, dtype=dtype), torch.randn(rows, 512, dtype=dtype)
        expected = x @ weight.t() + (out if add else 0)
        product.write(x, out, add)
        assert torch.allclose(out, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")
def test_what_is_packed() -> None:
    """It fails if torch renames the ops that Inductor uses for frozen weights."""
    weight = torch.randn(512, 256)
    assert can_be_packed(weight) and RepeatedProduct.of(weight, 32).packed is not None
    assert not can_be_packed(weight.bfloat16()) and not can_be_packed(weight[:64])
    with torch.backends.mkldnn.flags(enabled=False):
        assert not can_be_packed(weight)
        assert RepeatedProduct.of(weight, 32).packed is None
