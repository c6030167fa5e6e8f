"""An index that was cut into digits: what it is put together to, and that it is the same number everywhere."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import bottlenecks
from torch.utils._sympy.functions import FloorDiv, ModularIndexing

from approx_fx.host.digits import joined, parted

x, y, r = sympy.symbols("x y r", integer=True, nonnegative=True)
CASES = [
    # As torch 2.13 leaves it, where rows are split for more programs; as torch 2.11 does; the last digit a quotient.
    (
        x + 256 * ModularIndexing(r, 1, 56) + 14336 * ModularIndexing(r + 784 * y, 56, 56)
        + 802816 * ModularIndexing(y, 4, 64),
        x + 256 * r + 200704 * ModularIndexing(y, 1, 256),
    ),
    (
        x + 256 * ModularIndexing(r, 1, 56) + 14336 * ModularIndexing(r + 784 * y, 56, 896),
        x + 256 * r + 200704 * ModularIndexing(y, 1, 64),
    ),
    (ModularIndexing(r, 1, 56) + 56 * FloorDiv(r + 784 * y, 56), r + 784 * y),
    (4 * FloorDiv(r + 784 * y, 50176), 4 * FloorDiv(y, 64)),
    # r reaches beyond the unit that 1000 and 784 share, digits of other worth, other bases: left as they are.
    (ModularIndexing(r + 784 * y, 1, 1000), None),
    (ModularIndexing(r, 1, 56) + 57 * ModularIndexing(r + 784 * y, 56, 56), None),
    (ModularIndexing(r, 1, 56) + 56 * ModularIndexing(r + 785 * y, 56, 56), None),
    (ModularIndexing(r - 784 * y, 1, 784), None),
]  # fmt: skip


@pytest.mark.parametrize(("index", "wanted"), CASES)
def test_what_an_index_becomes(index: Any, wanted: Any) -> None:
    assert settled(index, {x: 256, y: 512, r: 784}) == (index if wanted is None else wanted)


def settled(index: Any, sizes: dict[Any, int]) -> Any:
    """Joined until nothing changes."""
    while (found := joined(index, sizes)) != index:
        index = found
    return index


sizes_of = st.integers(1, 12)


@given(
    sizes=st.tuples(sizes_of, sizes_of, sizes_of),
    factors=st.tuples(st.integers(1, 24), st.integers(0, 24)),
    radices=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    top=st.booleans(),
    scale=st.integers(1, 3),
    alone=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_it_is_the_same_number(
    sizes: tuple[int, ...], factors: tuple[int, int], radices: list[int], top: bool, scale: int, alone: bool
) -> None:
    """Any number of digits of r + a y + b x, each simplified by itself or not, beside x."""
    limits = dict(zip((r, y, x), sizes, strict=True))
    base = r + factors[0] * y + factors[1] * x
    index, worth = sympy.Integer(0), 1
    for radix in radices:
        digit = ModularIndexing(base, worth, radix)
        index += scale * worth * (parted(digit, limits) if alone else digit)
        worth *= radix
    index += scale * worth * FloorDiv(base, worth) if top else x
    found = settled(index, limits)
    for values in itertools.product(*map(range, sizes)):
        at = dict(zip((r, y, x), values, strict=True))
        assert found.subs(at) == index.subs(at)
    if top:
        assert found == sympy.expand(scale * base)


def test_codes_are_read_row_after_row() -> None:
    """ResNet's shapes: a reduction over coded values has no division within its loop."""
    pytest.importorskip("triton", reason="triton is not installed: Inductor writes no code for a GPU")
    from tools.measuring.triton_code import triton_code

    model, inputs = bottlenecks(True, 128, 28, 64, 0)
    _, backward = triton_code(model, inputs, torch.bfloat16, bits=4, min_bytes=0)
    loops = [body(source) for source in backward.kernels.values() if "@triton_heuristics.reduction" in source]
    shifted = [loop for loop in loops if ">>" in loop]
    assert len(shifted) >= 4
    assert not [loop for loop in shifted if "(r0_2" in loop]  # which begins what is divided


def body(source: str) -> str:
    """The lines of a kernel's loop; none where it has no loop."""
    return source.partition("for r0_offset in")[2].partition("tl.sum(")[0]
