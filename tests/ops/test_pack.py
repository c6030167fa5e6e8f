"""Packing by example: bytes spelled out, sizes, and the order in memory that packing keeps."""

from __future__ import annotations

import pytest
import torch

from approx_fx.ops.pack import (
    dense_strides,
    memory_order,
    multiple,
    pack,
    pack_dim,
    packed_length,
    padded_length,
    unpack,
)

WIDTHS = range(1, 9)
every_width = pytest.mark.parametrize("bits", WIDTHS)

# Codes and their bytes, worked out by hand. A byte's lowest bits hold the first code.
PACKED = [
    # One byte holds codes 0..7: 0b01001101.
    (1, [1, 0, 1, 1, 0, 0, 1, 0], [0b01001101]),
    # Nine codes are padded to 16 and lie 2 apart: codes 0, 2, .. 14 and codes 1, 3, .. 15.
    (1, [1, 1, 0, 0, 1, 0, 1, 0, 1], [0b00011101, 0b00000001]),
    # 3 + 1 * 4 + 2 * 16 + 0 * 64.
    (2, [3, 1, 2, 0], [0b00100111]),
    # Eight codes lie 2 apart: 3, 2, 1, 0 and 1, 0, 2, 3.
    (2, [3, 1, 2, 0, 1, 2, 0, 3], [0b00011011, 0b11100001]),
    # The plane of the lower two bits, 1 2 3 0 1 2 3 0, codes 2 apart; then that of the third bit, 1 0 1 0 0 1 0 1.
    (3, [5, 2, 7, 0, 1, 6, 3, 4], [0b11011101, 0b00100010, 0b10100101]),
    # 5 + 9 * 16; then with padding 3 + 7 * 16 and 12 + 0 * 16.
    (4, [5, 9], [0x95]),
    (4, [3, 12, 7], [0x73, 0x0C]),
    # Planes of 4, 2 and 1 bits: 0x7F = 15 + 7 * 16, its three upper bits 111 in two planes.
    (7, [0x7F, 0, 0, 0, 0x01, 0, 0, 0], [0x1F, 0, 0, 0, 0x03, 0, 0x01]),
    (8, [200, 7, 255], [200, 7, 255]),
]


@pytest.mark.parametrize(("bits", "codes", "expected"), PACKED)
def test_packed_bytes(bits: int, codes: list[int], expected: list[int]) -> None:
    packed = pack(torch.tensor(codes, dtype=torch.uint8), bits, 0)
    assert packed.tolist() == expected
    assert packed_length(len(codes), bits) == len(expected)
    assert unpack(packed, bits, 0, len(codes)).tolist() == codes


@every_width
def test_packing_keeps_all_codes_in_any_dimension(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (3, 17, 5), generator=torch.Generator().manual_seed(bits)).to(torch.uint8)
    for dim, length in enumerate(codes.shape):
        packed = pack(codes, bits, dim)
        assert packed.shape[dim] == padded_length(length, bits) * bits // 8
        assert torch.equal(unpack(packed, bits, dim, length), codes)


def test_sizes() -> None:
    assert [multiple(bits) for bits in WIDTHS] == [8, 4, 8, 2, 8, 4, 8, 1]
    assert [packed_length(16, bits) for bits in WIDTHS] == [2 * bits for bits in WIDTHS]
    assert [packed_length(1, bits) for bits in WIDTHS] == [1, 1, 3, 1, 5, 3, 7, 1]
    assert packed_length(0, 3) == 0


def test_pack_dim_wastes_least() -> None:
    assert pack_dim((16, 64, 7, 7), 1) == 0
    assert pack_dim((3, 64, 7, 7), 1) == 1
    assert pack_dim((3, 64, 7, 7), 8) == 0
    assert pack_dim((3, 5, 7), 4) == 2
    assert pack_dim((), 4) == 0


def test_memory_order() -> None:
    x = torch.zeros(2, 3, 4, 5)
    assert memory_order(x) == [0, 1, 2, 3]
    assert memory_order(x.contiguous(memory_format=torch.channels_last)) == [0, 2, 3, 1]
    assert memory_order(x.permute(3, 0, 2, 1)) == [1, 3, 2, 0]
    assert memory_order(x[:, :, ::2]) == [0, 1, 2, 3]
    assert memory_order(torch.zeros(1, 3, 1, 1).expand(2, 3, 4, 5)) == [0, 1, 2, 3]
    assert dense_strides((2, 3, 4, 5), [0, 2, 3, 1]) == [60, 1, 15, 3]
    # A packed dimension that shrank to 1 is found where it was, here in the middle.
    codes = torch.empty_strided((1, 4, 5), dense_strides((1, 4, 5), [1, 0, 2]))
    assert memory_order(codes) == [1, 0, 2]
