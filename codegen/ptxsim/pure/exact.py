"""float64 operations near the ends of the range, where the error of a product is not a float64: by integers, one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from treadle.codegen.ptxsim.pure.table import Array

_LOW, _HIGH = 2.0**-300, 2.0**300


def plain(*operands: Array) -> Array:
    """Which elements are zeros or far from the ends, so that products, quotients and their errors are plain float64s."""
    result: Array = np.True_
    for x in operands:
        size = np.abs(x)
        result = result & ((size == 0) | ((size >= _LOW) & (size <= _HIGH)))
    return result


def repair(result: Array, where: Array, scalar: Callable[..., float], *operands: Array) -> Array:
    """The result with its elements replaced, `where` asked for, by what `scalar` makes of the operands' elements."""
    if not np.any(where):
        return result
    result, where, *given = (np.array(x) for x in np.broadcast_arrays(result, where, *operands))
    for index in zip(*np.nonzero(where), strict=True) if where.ndim else ((),):
        result[index] = scalar(*(float(x[index]) for x in given))
    return result


def _round(value: Fraction, mode: str) -> float:
    """A number that is not zero."""
    try:
        nearest = value.numerator / value.denominator  # Python rounds this correctly, subnormals too
    except OverflowError:
        nearest = math.inf if value > 0 else -math.inf
    if mode == "rn":
        return nearest
    lacks = (-1 if nearest > 0 else 1) if math.isinf(nearest) else (value > Fraction(nearest)) - (value < Fraction(nearest))
    up = lacks > 0 and (mode == "rp" or (mode == "rz" and value < 0))
    down = lacks < 0 and (mode == "rm" or (mode == "rz" and value > 0))
    return math.nextafter(nearest, math.inf if up else -math.inf) if up or down else nearest


def _finite(*operands: float) -> bool:
    return all(math.isfinite(x) for x in operands)


def fma(mode: str) -> Callable[[float, float, float], float]:
    """a * b + c."""

    def scalar(a: float, b: float, c: float) -> float:
        if _finite(a, b) and not _finite(c):
            return c
        if not _finite(a, b):
            return float(np.float64(a) * np.float64(b) + np.float64(c))
        value = Fraction(a) * Fraction(b) + Fraction(c)
        if value:
            return _round(value, mode)
        product = math.copysign(1, a) * math.copysign(1, b)  # the sign of a product that may be too small to be formed
        same = product == math.copysign(1, c)
        return math.copysign(0.0, c if same else -1 if mode == "rm" else 1)

    return scalar


def multiply(mode: str) -> Callable[[float, float], float]:
    """a * b."""
    return lambda a, b: _round(Fraction(a) * Fraction(b), mode) if _finite(a, b) and a and b else float(np.float64(a) * b)


def divide(mode: str) -> Callable[[float, float], float]:
    """a / b."""
    return lambda a, b: _round(Fraction(a) / Fraction(b), mode) if _finite(a, b) and a and b else float(np.float64(a) / b)


def root(mode: str) -> Callable[[float], float]:
    """The square root: of 2^2k times an integer with so many bits that what is cut off matters only for being there."""

    def scalar(a: float) -> float:
        if not (a > 0 and math.isfinite(a)):
            return float(np.sqrt(np.float64(a)))
        scaled = Fraction(a) * 4**1200
        whole = math.isqrt(int(scaled))
        return _round(Fraction(2 * whole + (whole * whole != scaled), 2 * 2**1200), mode)

    return scalar
