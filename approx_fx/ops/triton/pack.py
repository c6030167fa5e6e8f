"""Device functions that every kernel shares: slots, the codes of a slot in one machine word, and conversions.

A slot's bytes are gathered in one word, byte b at bit 8 b. A code's bits go to one byte for each plane: with n bytes of
that plane in a slot, code j is field j // n of byte j % n, which is the layout of `approx_fx.ops.pack`.
"""

# Triton gives kernel parameters their types at each launch.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl

# Triton's interpreter, used by tests, truncates to bfloat16 and flushes subnormals: there conversions are done on bits.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def widen(x):
    """A loaded value as float32."""
    if INTERPRETED and x.dtype == tl.bfloat16:
        value = (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        value = x.to(tl.float32)
    return value


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """A float32 value in `dtype`, rounded to nearest, ties to even."""
    if INTERPRETED and dtype == tl.bfloat16:
        word = x.to(tl.int32, bitcast=True)
        word = tl.where(x == x, (word + 0x7FFF + ((word >> 16) & 1)) >> 16, 0x7FC0)
        value = word.to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        value = x.to(dtype)
    return value


@triton.jit
def _clamped(ratio, BITS: tl.constexpr):
    """`ratio`, float32, clamped to the range of codes; NaN becomes 0."""
    return tl.minimum(tl.maximum(tl.where(ratio == ratio, ratio, 0.0), 0.0), (1 << BITS) - 1.0)


@triton.jit
def floor_code(ratio, BITS: tl.constexpr):
    """clamp(floor(ratio)), int32, by truncation of a non-negative number: tl.floor would flush subnormals."""
    return _clamped(ratio, BITS).to(tl.int32)


@triton.jit
def ceil_code(ratio, BITS: tl.constexpr):
    """clamp(ceil(ratio)), int32."""
    ratio = _clamped(ratio, BITS)
    code = ratio.to(tl.int32)
    return tl.where(code.to(tl.float32) < ratio, code + 1, code)


@triton.jit
def locate(slots, row, FLAT: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """(outer index, index in the row, whether the slot exists) of this program's slots, int32 or int64 [BLOCK]."""
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    slot = program * BLOCK + tl.arange(0, BLOCK)
    if FLAT:
        outer, in_row = slot * 0, slot
    else:
        outer, in_row = slot // row, slot % row
    return outer, in_row, slot < slots


@triton.jit
def _insert_plane(word, code, J: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, PER_SLOT: tl.constexpr):
    if BITS & WIDTH:
        WIDER: tl.constexpr = BITS - BITS % (2 * WIDTH)
        BYTES: tl.constexpr = PER_SLOT * WIDTH // 8
        PLACE: tl.constexpr = PER_SLOT * WIDER + 8 * (J % BYTES) + J // BYTES * WIDTH
        word |= ((code >> WIDER) & ((1 << WIDTH) - 1)).to(word.dtype) << PLACE
    return word


@triton.jit
def _extract_plane(code, word, J: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, PER_SLOT: tl.constexpr):
    if BITS & WIDTH:
        WIDER: tl.constexpr = BITS - BITS % (2 * WIDTH)
        BYTES: tl.constexpr = PER_SLOT * WIDTH // 8
        PLACE: tl.constexpr = PER_SLOT * WIDER + 8 * (J % BYTES) + J // BYTES * WIDTH
        code |= ((word >> PLACE).to(tl.int32) & ((1 << WIDTH) - 1)) << WIDER
    return code


@triton.jit
def empty_word(BITS: tl.constexpr, PER_SLOT: tl.constexpr, BLOCK: tl.constexpr):
    """Words without codes, [BLOCK]: int32, or int64 where a slot has more than four bytes."""
    return tl.zeros([BLOCK], tl.int64 if BITS * PER_SLOT > 32 else tl.int32)


@triton.jit
def insert(word, code, J: tl.constexpr, BITS: tl.constexpr, PER_SLOT: tl.constexpr):
    """The words with `code`, int32, inserted as code J of each slot."""
    word = _insert_plane(word, code, J, 8, BITS, PER_SLOT)
    word = _insert_plane(word, code, J, 4, BITS, PER_SLOT)
    word = _insert_plane(word, code, J, 2, BITS, PER_SLOT)
    return _insert_plane(word, code, J, 1, BITS, PER_SLOT)


@triton.jit
def extract(word, J: tl.constexpr, BITS: tl.constexpr, PER_SLOT: tl.constexpr, BLOCK: tl.constexpr):
    """Code J of each slot, int32."""
    code = tl.zeros([BLOCK], tl.int32)
    code = _extract_plane(code, word, J, 8, BITS, PER_SLOT)
    code = _extract_plane(code, word, J, 4, BITS, PER_SLOT)
    code = _extract_plane(code, word, J, 2, BITS, PER_SLOT)
    return _extract_plane(code, word, J, 1, BITS, PER_SLOT)


@triton.jit
def store_word(codes, word, outer, in_row, row, live, BITS: tl.constexpr, PER_SLOT: tl.constexpr):
    """Write the bytes of each slot's word to the packed tensor `codes`, uint8."""
    place = outer * (BITS * PER_SLOT // 8) * row + in_row
    for byte in tl.static_range(BITS * PER_SLOT // 8):
        tl.store(codes + place, ((word >> (8 * byte)) & 255).to(tl.uint8), mask=live)
        place += row


@triton.jit
def load_word(codes, outer, in_row, row, live, BITS: tl.constexpr, PER_SLOT: tl.constexpr, BLOCK: tl.constexpr):
    """The word of each slot's bytes in the packed tensor `codes`, uint8."""
    word = empty_word(BITS, PER_SLOT, BLOCK)
    place = outer * (BITS * PER_SLOT // 8) * row + in_row
    for byte in tl.static_range(BITS * PER_SLOT // 8):
        word |= tl.load(codes + place, mask=live, other=0).to(word.dtype) << (8 * byte)
        place += row
    return word
