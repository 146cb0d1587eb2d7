"""Rounding once: what numpy cannot do alone, stated by the error that a nearest value leaves.

Sums and products of f32, f16 and bf16 are formed in float64 with their error (Knuth, Dekker), rounded to odd there, and
then rounded to the type. To odd means that an inexact value gets its last bit set: it is on no tie of any narrower type
and on no value of it either, so the second rounding sees on which side the exact value lies (Boldo and Melquiond).
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from treadle.codegen.ptxsim.pure.table import Array

_BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}
_HALF_ULP, _ONE, _SIXTEEN = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)
BF16_NAN = np.uint16(0x7FFF)


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b to nearest, and what that lacks, exactly; the error is NaN where the sum is not finite."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """a * b to nearest, and what that lacks, exactly, unless a factor or an error is near the ends of float64's range."""
    total = a * b
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    return total, ((a_high * b_high - total) + a_high * b_low + a_low * b_high) + a_low * b_low


def _split(x: Array) -> tuple[Array, Array]:
    scaled = x * 134217729.0  # 2^27 + 1
    high = scaled - (scaled - x)
    return high, x - high


def odd(nearest: Array, error: Array) -> Array:
    """A float64 that stands for nearest + error, whatever it is rounded to next: cut off, and its last bit set."""
    inexact = (error > 0) | (error < 0)  # neither, where the error is a NaN
    beyond = inexact & ((error < 0) == (nearest > 0))
    return ((nearest.view(np.int64) - beyond) | inexact).view(np.float64)


def _odd_f32(x: Array) -> Array:
    """A float64 as a float32 rounded to odd, on the way to 16 bits; a NaN stays one."""
    nearest = x.astype(np.float32)
    back = nearest.astype(np.float64)
    return ((nearest.view(np.uint32) - (np.abs(back) > np.abs(x))) | (back != x)).view(np.float32)


def to_bf16(x: Array) -> Array:
    """A float32 to the nearest bf16; a NaN to the canonical one."""
    bits = x.view(np.uint32)
    rounded = (bits + _HALF_ULP + ((bits >> _SIXTEEN) & _ONE)) >> _SIXTEEN
    return np.where(np.isnan(x), BF16_NAN, rounded.astype(np.uint16)).view(ml_dtypes.bfloat16)


def from_bf16(x: Array, wide: type = np.float32) -> Array:
    """A bf16 as float32 or float64: it is the upper half of a float32."""
    single = np.left_shift(x.view(np.uint16), _SIXTEEN, dtype=np.uint32).view(np.float32)
    return single if wide is np.float32 else single.astype(wide)


def widen(x: Array) -> Array:
    """A float of any type as float64."""
    return from_bf16(x, np.float64) if x.dtype == ml_dtypes.bfloat16 else x.astype(np.float64)


def directed(nearest: Array, error: Array, mode: str) -> Array:
    """The nearest value moved to what `mode` asks for, given the sign of what it lacks; a NaN error says: leave it."""
    if mode == "rn":
        return nearest
    bits = nearest.view(_BITS[nearest.dtype.itemsize])
    negative = bits >> bits.dtype.type(8 * bits.dtype.itemsize - 1) != 0
    if mode == "rz":
        return (bits - np.where(negative, error > 0, error < 0)).view(nearest.dtype)
    move = error < 0 if mode == "rm" else error > 0
    grow = negative if mode == "rm" else ~negative
    return np.where(move, np.where(grow, bits + bits.dtype.type(1), bits - bits.dtype.type(1)), bits).view(nearest.dtype)


def narrow(x: Array, kind: str, mode: str) -> Array:
    """A float64, exact or rounded to odd, as a narrower type."""
    if kind == "f32":
        nearest = x.astype(np.float32)
    elif kind == "f16":
        nearest = _odd_f32(x).astype(np.float16)
    else:
        nearest = to_bf16(_odd_f32(x))
    return nearest if mode == "rn" else directed(nearest, x - widen(nearest), mode)


def narrow_sum(total: Array, error: Array, kind: str, mode: str) -> Array:
    """total + error as a narrower type, of the error no more than the sign."""
    if kind != "f32" or mode == "rn":
        return narrow(odd(total, error), kind, mode)
    nearest = total.astype(np.float32)
    rest = total - nearest.astype(np.float64)
    return directed(nearest, np.where(rest == 0, error, rest), mode)  # the error is less than any rest of the total


def zero_sum(total: Array, a: Array, b: Array, mode: str) -> Array:
    """The sum with the sign that a zero has: of x - x it is minus where rounding goes down, else plus."""
    if mode != "rm":
        return total
    return np.where((total == 0) & (np.signbit(a) != np.signbit(b)), total.dtype.type(-0.0), total)
