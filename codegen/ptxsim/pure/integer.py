"""Integer arithmetic. numpy wraps, as the ISA asks; what needs care is division, high halves and saturation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from treadle.codegen.ptxsim.pure.packed import halves
from treadle.codegen.ptxsim.pure.table import Array, Mods, NotThis, Pure, dtype, opcode

SIGNED = ("s16", "s32", "s64")
UNSIGNED = ("u16", "u32", "u64")
INTEGERS = SIGNED + UNSIGNED


def wider(kind: str) -> str:
    """The type of twice the width."""
    return f"{kind[0]}{2 * int(kind[1:])}"


def clamp(wide: Array, kind: str) -> Array:
    """A wider integer, saturated to `kind`."""
    limits = np.iinfo(dtype(kind))
    return np.clip(wide, wide.dtype.type(limits.min), wide.dtype.type(limits.max)).astype(dtype(kind))


@opcode("add", "sub")
def _add(mods: Mods) -> Pure:
    sat = mods.flag("sat")
    packed = ("u16x2", "s16x2") if mods.opcode == "add" else ()
    kind = mods.type("s32") if sat else mods.type(*INTEGERS, *packed)
    mods.end()
    ufunc = np.add if mods.opcode == "add" else np.subtract
    if sat:
        return Pure((kind,), (kind, kind), lambda a, b: clamp(ufunc(a, b, dtype=np.int64), kind))
    if kind in packed:
        return Pure((kind,), (kind, kind), halves(ufunc, "u16"))
    return Pure((kind,), (kind, kind), ufunc)


def high(kind: str) -> Callable[[Array, Array], Array]:
    """The upper half of a product."""
    if kind == "u64":
        return _high_u64
    if kind == "s64":
        return _high_s64
    wide, bits = dtype(wider(kind)), int(kind[1:])
    return lambda a, b: (np.multiply(a, b, dtype=wide) >> wide.type(bits)).astype(dtype(kind))


_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def _high_u64(a: Array, b: Array) -> Array:
    al, ah, bl, bh = a & _LOW, a >> _32, b & _LOW, b >> _32
    middle = ah * bl + ((al * bl) >> _32)  # at most (2^32 - 1)^2 + 2^32 - 1: no overflow, nor below
    return ah * bh + (middle >> _32) + ((al * bh + (middle & _LOW)) >> _32)


def _high_s64(a: Array, b: Array) -> Array:
    """The unsigned product counts a negative factor as 2^64 too much: the other factor too much in the upper half."""
    high = _high_u64(a.view(np.uint64), b.view(np.uint64)).view(np.int64)
    return high - np.where(a < 0, b, 0) - np.where(b < 0, a, 0)


def low_24(kind: str) -> Callable[[Array], Array]:
    """An operand of mul24: its low 24 bits, sign-extended for s32."""
    eight = dtype(kind).type(8)
    return lambda x: (x << eight) >> eight


def product(kind: str, part: str) -> tuple[str, Callable[[Array, Array], Array]]:
    """A part of a product, and the type that it has."""
    if part == "lo":
        return kind, np.multiply
    if part == "hi":
        return kind, high(kind)
    return wider(kind), partial(np.multiply, dtype=dtype(wider(kind)))


def _part(mods: Mods, kinds: tuple[str, ...]) -> tuple[str, str]:
    part = mods.need("lo", "hi", "wide")
    kind = mods.type(*kinds)
    if part == "wide" and kind.endswith("64"):
        raise NotThis
    return part, kind


@opcode("mul")
def _mul(mods: Mods) -> Pure:
    part, kind = _part(mods, INTEGERS)
    mods.end()
    out, fn = product(kind, part)
    return Pure((out,), (kind, kind), fn)


@opcode("mad")
def _mad(mods: Mods) -> Pure:
    sat = mods.flag("sat")
    part, kind = _part(mods, ("s32",) if sat else INTEGERS)
    mods.end()
    out, multiply = product(kind, part)
    if sat and part != "hi":
        raise NotThis
    if sat:
        return Pure((out,), (kind, kind, out), lambda a, b, c: clamp(np.add(multiply(a, b), c, dtype=np.int64), kind))
    return Pure((out,), (kind, kind, out), lambda a, b, c: multiply(a, b) + c)


@opcode("mul24", "mad24")
def _mul24(mods: Mods) -> Pure:
    """The product of 24-bit numbers has 48 bits: lo is its bits 0 to 31, hi its bits 16 to 47."""
    sat = mods.flag("sat")
    part = mods.need("lo", "hi")
    kind = mods.type("u32", "s32")
    mods.end()
    if sat and (mods.opcode, part, kind) != ("mad24", "hi", "s32"):
        raise NotThis
    wide, narrow, cut = dtype(wider(kind)), dtype(kind), low_24(kind)
    shift = wide.type(16 if part == "hi" else 0)

    def multiply(a: Array, b: Array) -> Array:
        return (np.multiply(cut(a), cut(b), dtype=wide) >> shift).astype(narrow)

    if mods.opcode == "mul24":
        return Pure((kind,), (kind, kind), multiply)
    if sat:
        return Pure((kind,), (kind,) * 3, lambda a, b, c: clamp(np.add(multiply(a, b), c, dtype=np.int64), kind))
    return Pure((kind,), (kind,) * 3, lambda a, b, c: multiply(a, b) + c)


@opcode("sad")
def _sad(mods: Mods) -> Pure:
    kind = mods.type(*INTEGERS)
    mods.end()
    return Pure((kind,), (kind,) * 3, lambda a, b, c: np.maximum(a, b) - np.minimum(a, b) + c)


def quotient(kind: str) -> Callable[[Array, Array], Array]:
    """Truncated division. By zero the ISA leaves the result open: all ones here, as the hardware is known to give."""
    narrow = dtype(kind)
    ones = np.array(-1).astype(narrow)[()]

    def by_float(a: Array, b: Array) -> Array:
        # Up to 32 bits float64 holds both, and no quotient is so near to an integer that rounding would reach it.
        return np.trunc(np.true_divide(a, b)).astype(np.int64).astype(narrow)

    def by_floor(a: Array, b: Array) -> Array:
        floor = np.floor_divide(a, b)
        return floor + (((a ^ b) < 0) & (floor * b != a))

    divide = np.floor_divide if kind[0] == "u" else by_floor if kind == "s64" else by_float

    def guarded(a: Array, b: Array) -> Array:
        # The smallest s64 by -1 wraps to itself; numpy says so too, but it need not.
        zero = b == 0
        return np.where(zero, ones, divide(a, np.where(zero, narrow.type(1), b))) if np.any(zero) else divide(a, b)

    return guarded


@opcode("div")
def _div(mods: Mods) -> Pure:
    kind = mods.type(*INTEGERS)
    mods.end()
    return Pure((kind,), (kind, kind), quotient(kind))


@opcode("rem")
def _rem(mods: Mods) -> Pure:
    """a - b * (a / b): the sign of the dividend; a itself by zero, which the ISA leaves open."""
    kind = mods.type(*INTEGERS)
    mods.end()
    divide = quotient(kind)
    return Pure((kind,), (kind, kind), lambda a, b: a - b * divide(a, b))


@opcode("abs", "neg")
def _abs(mods: Mods) -> Pure:
    kind = mods.type(*SIGNED)
    mods.end()
    return Pure((kind,), (kind,), np.abs if mods.opcode == "abs" else np.negative)


@opcode("min", "max")
def _min(mods: Mods) -> Pure:
    relu = mods.flag("relu")
    kind = mods.type(*("s16x2", "s32") if relu else (*INTEGERS, "u16x2", "s16x2"))
    mods.end()
    pick = np.minimum if mods.opcode == "min" else np.maximum
    zero = dtype(kind[:3]).type(0)

    def clamped(a: Array, b: Array) -> Array:
        return np.maximum(pick(a, b), zero)

    fn = clamped if relu else pick
    return Pure((kind,), (kind, kind), halves(fn, kind[:3]) if kind.endswith("x2") else fn)


@opcode("dp4a")
def _dp4a(mods: Mods) -> Pure:
    """c + the sum of four products of bytes."""
    a_kind, b_kind = mods.type("u32", "s32"), mods.type("u32", "s32")
    mods.end()
    out = "u32" if (a_kind, b_kind) == ("u32", "u32") else "s32"
    a_shift, b_shift = _lanes(a_kind, 8), _lanes(b_kind, 8)
    wide = dtype(out)

    def dot(a: Array, b: Array, c: Array) -> Array:
        products = (a_shift(a, i).astype(wide) * b_shift(b, i).astype(wide) for i in range(4))
        return sum(products, start=c)

    return Pure((out,), (a_kind, b_kind, out), dot)


@opcode("dp2a")
def _dp2a(mods: Mods) -> Pure:
    """c + the sum of two products: a's 16-bit halves by the two low or high bytes of b."""
    first = 2 * ("lo", "hi").index(mods.need("lo", "hi"))
    a_kind, b_kind = mods.type("u32", "s32"), mods.type("u32", "s32")
    mods.end()
    out = "u32" if (a_kind, b_kind) == ("u32", "u32") else "s32"
    a_lane, b_lane = _lanes(a_kind, 16), _lanes(b_kind, 8)
    wide = dtype(out)

    def dot(a: Array, b: Array, c: Array) -> Array:
        products = (a_lane(a, i).astype(wide) * b_lane(b, first + i).astype(wide) for i in range(2))
        return sum(products, start=c)

    return Pure((out,), (a_kind, b_kind, out), dot)


def _lanes(kind: str, bits: int) -> Callable[[Array, int], Array]:
    """Piece number i of a register, extended by its own sign."""
    of = dtype(kind).type
    return lambda x, i: (x << of(32 - bits * (i + 1))) >> of(32 - bits)
