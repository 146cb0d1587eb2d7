"""Fused multiply-add: one rounding of the exact a * b + c."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from treadle.codegen.ptxsim.pure import exact
from treadle.codegen.ptxsim.pure.finish import finish, modes, out_of_bounds
from treadle.codegen.ptxsim.pure.packed import halves
from treadle.codegen.ptxsim.pure.rounding import directed, narrow_sum, odd, two_product, two_sum, widen, zero_sum
from treadle.codegen.ptxsim.pure.table import Array, Mods, NotThis, Pure, opcode

_TAIL, _TIE = np.uint64(0x1FFFFFFF), np.uint64(0x10000000)
_SUBNORMAL = np.float64(2.0**-126)


def _exactly(kind: str, mode: str) -> Callable[[Array, Array, Array], Array]:
    """The products of these types are exact in float64, and so is the sum with its error."""

    def fma(a: Array, b: Array, c: Array) -> Array:
        product, addend = widen(a) * widen(b), widen(c)
        total, error = two_sum(product, addend)
        return narrow_sum(zero_sum(total, product, addend, mode), error, kind, mode)

    return fma


_f32_exactly = _exactly("f32", "rn")


def fma_f32(a: Array, b: Array, c: Array) -> Array:
    """To nearest: the float64 sum rounded again is right unless it lies on a tie, or where float32 has fewer bits."""
    total = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
    suspect = ((total.view(np.uint64) & _TAIL) == _TIE) | (np.abs(total) < _SUBNORMAL)
    if np.count_nonzero(suspect) and np.any(suspect & (total != 0)):
        return _f32_exactly(a, b, c)
    return total.astype(np.float32)


def fma_f64(mode: str) -> Callable[[Array, Array, Array], Array]:
    """The sum of three float64s: the product, its error, the addend; the two small ones to odd first."""
    scalar = exact.fma(mode)

    def fma(a: Array, b: Array, c: Array) -> Array:
        product, product_error = two_product(a, b)
        low, low_error = two_sum(c, product_error)
        high, high_error = two_sum(product, low)
        total, error = two_sum(high, odd(*two_sum(low_error, high_error)))
        total = directed(zero_sum(total, product, c, mode), error, mode)
        return exact.repair(total, ~exact.plain(a, b, c), scalar, a, b, c)

    return fma


def fma(kind: str, mode: str) -> Callable[[Array, Array, Array], Array]:
    """a * b + c of a type, rounded in a mode."""
    if kind == "f64":
        return fma_f64(mode)
    return fma_f32 if (kind, mode) == ("f32", "rn") else _exactly(kind, mode)


@opcode("fma", "mad")
def _fma(mods: Mods) -> Pure:
    """mad of f32 and f64 is fma since sm_20."""
    mode, ftz, sat = mods.need(*modes), mods.flag("ftz"), mods.flag("sat")
    kind = mods.type("f32", "f64")
    mods.end()
    if kind == "f64" and (ftz or sat):
        raise NotThis
    return Pure((kind,), (kind,) * 3, finish(fma(kind, mode), kind, ftz=ftz, sat=sat))


@opcode("fma")
def _fma_half(mods: Mods) -> Pure:
    mods.need("rn")
    ftz, sat, relu, oob = (mods.flag(name) for name in ("ftz", "sat", "relu", "oob"))
    kind = mods.type("f16", "f16x2", "bf16", "bf16x2")
    mods.end()
    one = kind.removesuffix("x2")
    if (sat and relu) or (oob and (ftz or sat)) or (one == "bf16" and (ftz or sat)):
        raise NotThis
    fn = finish(fma(one, "rn"), one, ftz=ftz, sat=sat, relu=relu)
    if oob:
        fn = out_of_bounds(fn)
    return Pure((kind,), (kind,) * 3, halves(fn, one) if kind != one else fn)
