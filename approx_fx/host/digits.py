"""torch._inductor: an index cut into digits by a view is put together again.

Codes are packed along the batch, so a loop over rows n, split for more programs into r + 784 y, reads them at the row
modulo what a byte's row holds. Inductor has its digits, of which it has simplified each by itself:

    (r % 56) + 56 ((r + 784 y) // 56 % 56) + 3136 (y // 4 % 64)

and a GPU spends as much time on these as on reading. Two identities undo it, for n = v + g w, all at least 0:

    n % a + a (n // a % b) = n % ab
    n % gc = v + g (w % c),  n // gd = w // d        where v < g
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator
from typing import Any
from unittest import mock

import sympy
from torch import fx

Sizes = dict[Any, Any]


@contextlib.contextmanager
def digits_joined(half: fx.GraphModule, ours: Collection[Any]) -> Iterator[None]:
    """Inductor inside does so, if `half` calls one of `ours` on a GPU. For one compile at a time."""
    from torch._inductor.sizevars import SizeVarAllocator

    if not any(node.target in ours and _on_gpu(node) for node in half.graph.nodes):
        yield
        return
    theirs = SizeVarAllocator._simplify_with_ranges

    def simplified(allocator: Any, expr: Any, sizes: Sizes) -> Any:
        """Theirs, then ours, until neither changes anything."""
        for _ in range(20):
            known = theirs(allocator, expr, sizes)
            expr = joined(known, sizes, lambda digit: theirs(allocator, digit, sizes))
            if expr == known:
                break
        return expr

    with mock.patch.object(SizeVarAllocator, "_simplify_with_ranges", simplified):
        yield


def _on_gpu(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return getattr(value, "is_cuda", False)


def joined(expr: Any, sizes: Sizes, simplify: Callable[[Any], Any] = lambda digit: digit) -> Any:
    """An index of the same value, with fewer digits. sizes: variable -> it is below that.

    simplify: what has been done to the digits, one by one.
    """
    from torch.utils._sympy.functions import FloorDiv, ModularIndexing

    if not expr.has(FloorDiv, ModularIndexing):
        return expr
    if isinstance(expr, sympy.Add):
        expr = _put_together(expr, sizes, lambda digit: parted(simplify(digit), sizes))
    return parted(expr, sizes)


def parted(expr: Any, sizes: Sizes) -> Any:
    """The second identity, wherever it applies."""
    from torch.utils._sympy.functions import FloorDiv, ModularIndexing

    def divided(digit: Any) -> Any:
        base, by = digit.args
        part = _low_part(base, by, sizes)
        return digit if part is None else FloorDiv(part[2], by // part[1])

    def remainder(digit: Any) -> Any:
        base, by, modulus = digit.args
        if not isinstance(modulus, sympy.Integer):
            return digit
        part = _low_part(base, modulus if by == 1 else by, sizes)
        if part is None:
            return digit
        low, unit, rest = part
        if by == 1:
            return low + unit * ModularIndexing(rest, 1, modulus // unit)
        return ModularIndexing(rest, by // unit, modulus)

    return expr.replace(lambda e: isinstance(e, FloorDiv), divided).replace(
        lambda e: isinstance(e, ModularIndexing), remainder
    )


def _low_part(base: Any, whole: Any, sizes: Sizes) -> tuple[Any, Any, Any] | None:
    """(v, g, w) of base = v + g w: v is below g, which divides `whole`; None where there is no such variable."""
    factors = _linear(base, sizes)
    if factors is None or not isinstance(whole, sympy.Integer):
        return None
    for low, factor in factors.items():
        others = [int(other) for variable, other in factors.items() if variable is not low]
        unit = sympy.Integer(math.gcd(int(whole), *others))
        if factor == 1 and others and unit > 1 and sizes[low] <= unit:
            return low, unit, sympy.Add(*(variable * (other // unit) for variable, other in factors.items()
                                          if variable is not low))  # fmt: skip
    return None


def _linear(base: Any, sizes: Sizes) -> dict[Any, Any] | None:
    """Variable -> its factor, of a sum of such products, none negative; None for anything else."""
    factors = dict(base.as_coefficients_dict())
    known = all(isinstance(sizes.get(variable), (int, sympy.Integer)) for variable in factors)
    whole = all(isinstance(factor, sympy.Integer) and factor > 0 for factor in factors.values())
    return factors if known and whole and factors else None


def _put_together(expr: Any, sizes: Sizes, simplify: Callable[[Any], Any]) -> Any:
    """The first identity: digits of one base, each of them as `simplify` leaves it, are that base."""
    from torch.utils._sympy.functions import FloorDiv, ModularIndexing

    terms = [(*term.as_coeff_Mul(), term) for term in expr.args]
    digits = [term for term in terms if isinstance(term[1], (FloorDiv, ModularIndexing))]
    bases = dict.fromkeys(digit.args[0] for _, digit, _ in digits)
    for base in bases:
        if _linear(base, sizes) is None:
            continue
        for unit, _, _ in digits:
            reach, used, rest = sympy.Integer(1), list[Any](), list(digits)
            while (found := _next(rest, unit * reach, base, reach, simplify)) is not None:
                used.append(found[2])
                rest.remove(found)
                if isinstance(found[1], FloorDiv):
                    reach = None
                    break
                reach *= found[1].args[2]
            if len(used) > 1:
                whole = base if reach is None else ModularIndexing(base, 1, reach)
                return expr - sympy.Add(*used) + unit * whole
    return expr


def _next(digits: list[Any], worth: Any, base: Any, reach: Any, simplify: Callable[[Any], Any]) -> Any:
    """The term that is `worth` times the digit of `base` above `reach`, if there is one."""
    from torch.utils._sympy.functions import FloorDiv, ModularIndexing

    for term in digits:
        factor, digit, _ = term
        if factor != worth:
            continue
        if isinstance(digit, FloorDiv):
            meant = FloorDiv(base, reach)
        elif isinstance(digit.args[2], sympy.Integer):
            meant = ModularIndexing(base, reach, digit.args[2])
        else:
            continue
        if digit in (meant, simplify(meant)):
            return term
    return None
