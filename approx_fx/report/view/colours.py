"""Titles of the two partitions, and colours that colour-blind readers can tell apart: Okabe and Ito 2008."""

from __future__ import annotations

EXACT = "#D55E00"
# bits -> colour; 0 is exact.
BITS = {
    0: EXACT,
    1: "#CC79A7",
    2: "#009E73",
    3: "#009E73",
    4: "#0072B2",
    5: "#0072B2",
    6: "#56B4E9",
    7: "#56B4E9",
    8: "#56B4E9",
}
# (one of the colours in BITS, its label)
LEGEND = ((EXACT, "exact"), ("#56B4E9", "6 to 8 bits"), ("#0072B2", "4, 5 bits"), ("#009E73", "2, 3 bits"),
          ("#CC79A7", "1 bit"))  # fmt: skip
TITLES = {"before": "torch.compile", "after": "approx_fx"}
KINDS = {
    "parameters": "#999999",
    "saved exact": EXACT,
    "saved codes": "#0072B2",
    "decoded": "#56B4E9",
    "gradients": "#F0E442",
    "other temporaries": "#009E73",
}


def of_bits(bits: int) -> str:
    """The colour of a code of this many bits; that of exact tensors above 8."""
    return BITS.get(bits, EXACT)
