"""Parts of a value along its last dimension."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from approx_fx.encode.tile import Tile, largest_divisor
from approx_fx.joint.parts import part_length

aten = torch.ops.aten
CASES: dict[str, tuple[Callable[[Tensor], object], int | None]] = {
    "three gates": (lambda x: x.split(64, 1), 64),
    "keys and values of fewer heads": (lambda x: x.split([128, 32, 32], 1), 32),
    "one slice of two thirds": (lambda x: x[:, :128], 64),
    "slices from the end": (lambda x: (x[:, -64:], x[:, :-64]), 64),
    "rows": (lambda x: x[:5], None),
    "read whole, too": (lambda x: (x[:, :64], x.exp()), None),
    "too short": (lambda x: x.split(16, 1), None),
    "halves of different lengths": (lambda x: x.split([100, 92], 1), None),
}


@pytest.mark.parametrize("case", CASES)
def test_slices(case: str) -> None:
    read, expected = CASES[case]
    graph = make_fx(read)(torch.randn(10, 192)).graph
    assert part_length(next(iter(graph.nodes))) == expected


@pytest.mark.parametrize(("dim", "expected"), [(1, 64), (-1, 64), (0, None)])
def test_concatenation(dim: int, expected: int | None) -> None:
    graph = make_fx(lambda x: torch.cat([x, x + 1, x[:, :64]] if dim else [x, x], dim))(torch.randn(10, 128)).graph
    assert part_length(graph.find_nodes(op="call_function", target=aten.cat.default)[0]) == expected


@pytest.mark.parametrize(("length", "part"), [(960, 320), (1536, 512), (192, 64), (2304, 768), (160, 32)])
def test_a_tile_lies_in_one_part(length: int, part: int) -> None:
    tile = Tile.of(torch.empty(10, length, device="meta"), largest_divisor(part, 256), "memory")
    assert tile.dim == 1 and not tile.reduced_dims and part % tile.size == 0 and tile.size >= 32
