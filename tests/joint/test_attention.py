"""Attention, by whichever of torch's kernels: what it mixes is coded, where it looks is exact."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.joint.op_table import ATTENTION, ATTENTION_BACKWARD

aten = torch.ops.aten
HEADS, WIDTH, LENGTH, BATCH = 4, 64, 64, 4
SHAPE = (BATCH, HEADS, LENGTH, WIDTH // HEADS)
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def flex(q: Tensor, k: Tensor, v: Tensor, _: Tensor | None) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(q, k, v, score_mod=lambda score, _b, _h, row, column: score - 0.1 * (row - column))  # type: ignore[return-value]


# Kernel -> attention as torch calls it where it picks that one.
KERNELS: dict[str, Kernel] = {
    "flash": lambda q, k, v, _: aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True)[0],
    "efficient": lambda q, k, v, bias: aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)[0],
    "cudnn": lambda q, k, v, bias: aten._scaled_dot_product_cudnn_attention(q, k, v, bias, True, 0.0, True)[0],
    "cpu": lambda q, k, v, bias: nn.functional.scaled_dot_product_attention(q, k, v, bias),
    "flex": flex,
}


class Attention(nn.Module):
    """Self-attention by one kernel, and a bias on it made of positions that are given with the tokens.

    far: what the bias is for a place that is not to be looked at.
    """

    def __init__(self, kernel: Kernel, biased: bool = False, far: float = -1e9) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.kernel, self.biased, self.far = kernel, biased, far

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(BATCH, LENGTH, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = None
        if self.biased:  # near places count more, those further than some not at all
            near = positions @ positions.transpose(1, 2)
            bias = torch.where(near < -1, self.far, near)[:, None].expand(-1, HEADS, -1, -1)
        y = self.kernel(q, k, v, bias)
        return self.out(y.transpose(1, 2).reshape(BATCH, LENGTH, WIDTH))


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, LENGTH, WIDTH, generator=generator), torch.randn(BATCH, LENGTH, 3, generator=generator)


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_reads_codes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Query, key and value share one code, what comes out has one; the log-sum-exp is that of the codes' scores.

    flex_attention's backward reads the log-sum-exp of the forward, and an exact query and key.
    """
    from torch.nn.attention import flex_attention

    if name == "flex":  # has no backward on a CPU, and refuses to be traced for one there
        monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    report = approx_fx.explain(Attention(KERNELS[name]), *inputs(), bits=4, min_bytes=0, strict=True)
    coded = {row.shape for row in report.tensors if any("attention" in reader for reader in row.consumers)}
    assert coded == {(3, *SHAPE), SHAPE}
    kept = {(row.reason, row.shape[:3]) for row in report.kept if row.bytes > 64}
    assert kept == ({("statistic", SHAPE[:3]), ("reader", SHAPE[:3])} if name == "flex" else set())


@pytest.mark.parametrize("name", ["efficient", "cudnn", "cpu"])
def test_a_bias_is_exact(name: str) -> None:
    report = approx_fx.explain(Attention(KERNELS[name], biased=True), *inputs(), bits=4, min_bytes=0, strict=True)
    square = (BATCH, 1, LENGTH, LENGTH)
    assert {row.reason for row in report.kept if row.shape == square} == {"reader"}
    assert not any(row.shape[-2:] == (LENGTH, LENGTH) for row in report.tensors)


def test_a_bias_is_not_made_of_codes() -> None:
    """A bias that is smooth in something else is kept itself: made again from codes of that, it would not be exact."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        assert bias is not None
        return KERNELS["efficient"](q, k, v, torch.rsqrt(1 + bias * bias))

    report = approx_fx.explain(Attention(kernel, True, -5.0), *inputs(), bits=4, min_bytes=0, strict=True)
    assert not any(row.shape[-2:] == (LENGTH, LENGTH) for row in report.tensors)


@pytest.mark.parametrize("far", [-1e9, float("-inf")])
def test_gradients_through_a_bias_that_masks(far: float) -> None:
    """A step of a code between -1e9 and the bias of what is near would be far larger than what is near."""
    torch.manual_seed(0)
    exact = Attention(KERNELS["cpu"], biased=True, far=far)
    ours = approx_fx.convert(copy.deepcopy(exact), bits=8, min_bytes=0, compiler="eager", strict=True)
    gradients = []
    for model in (exact, ours):
        model(*inputs()).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    cosine = nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0)
    assert cosine > 0.999


def test_the_table_is_that_of_torch() -> None:
    """Every attention of torch that has a backward is known, and its arguments that are values are where we say."""
    found: dict[str, tuple[int, ...]] = {}
    values = {"grad_out", "grad_out_", "query", "key", "value", "out"}
    schemas = torch._C._jit_get_all_schemas()
    for schema in schemas:
        name = schema.name.removeprefix("aten::")
        if schema.name.startswith("aten::") and "attention" in name and name.endswith("_backward"):
            found[name] = tuple(i for i, argument in enumerate(schema.arguments) if argument.name in values)
    assert found == {name: places for name, places in ATTENTION_BACKWARD.items() if not name.startswith("flex")}
    assert ATTENTION - {"flex_attention"} <= {schema.name.removeprefix("aten::") for schema in schemas}
