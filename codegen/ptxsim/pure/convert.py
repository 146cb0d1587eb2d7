"""cvt: between all integers and floats, with every rounding and saturation; fp8 is in fp8.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from treadle.codegen.ptxsim.pure.finish import NAN, canonical, flush, modes, rectify, saturate
from treadle.codegen.ptxsim.pure.rounding import directed, narrow, narrow_sum, to_bf16, two_sum, widen
from treadle.codegen.ptxsim.pure.table import Array, Mods, NotThis, Pure, dtype, opcode

INTEGERS = tuple(f"{sign}{bits}" for sign in "us" for bits in (8, 16, 32, 64))
FLOATS = ("f16", "bf16", "f32", "f64")
_TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_RANK = {"bf16": 0, "f16": 0, "f32": 1, "f64": 2}
_LARGEST = {
    "f16": np.float16(65504),
    "bf16": np.uint16(0x7F7F).view(dtype("bf16")),
    "tf32": np.uint32(0x7F7FE000).view(np.float32),
}
Unary = Callable[[Array], Array]


@opcode("cvt")
def _cvt(mods: Mods) -> Pure:
    """One value to one value."""
    integral, mode = mods.one(*_TO_INTEGER), mods.one(*modes)
    ftz, sat = mods.flag("ftz"), mods.flag("sat")
    out, kind = mods.type(*INTEGERS, *FLOATS), mods.type(*INTEGERS, *FLOATS)
    mods.end()
    if (ftz and "f32" not in (out, kind)) or (sat and "bf16" in (out, kind)):
        raise NotThis
    from_float, to_float = kind in FLOATS, out in FLOATS
    if not from_float and not to_float:
        if integral or mode:
            raise NotThis
        fn = integers(out, kind, sat)
    elif not to_float:
        if mode or not integral:
            raise NotThis
        fn = to_integer(out, kind, integral, ftz)
    elif not from_float:
        if integral or not mode:
            raise NotThis
        fn = from_integer(out, kind, mode)
        fn = _saturated(fn) if sat else fn
    else:
        fn = _between_floats(out, kind, integral, mode, ftz, sat)
    return Pure((out,), (kind,), fn)


def _saturated(fn: Unary) -> Unary:
    return lambda a: saturate(fn(a))


def integers(out: str, kind: str, sat: bool) -> Unary:
    """Cut to the width or extended by its own sign; or saturated, which only a range that reaches out can be."""
    to, of = np.iinfo(dtype(out)), np.iinfo(dtype(kind))
    narrow_to = dtype(out)
    if not sat:
        return lambda a: a.astype(narrow_to)
    if to.min <= of.min and of.max <= to.max:
        raise NotThis
    low, high = of.dtype.type(max(to.min, of.min)), of.dtype.type(min(to.max, of.max))
    return lambda a: np.clip(a, low, high).astype(narrow_to)


def to_integer(out: str, kind: str, how: str, ftz: bool) -> Unary:
    """Rounded, then clamped; a NaN is 0, or the top bit alone where a 64-bit type takes part."""
    rounding, to = _TO_INTEGER[how], dtype(out)
    limits = np.iinfo(to)
    # The float64s next to the limits of 64 bits: 2^63 and 2^64 themselves are out of range.
    top, bottom = float(limits.max), float(limits.min)
    largest, smallest = to.type(limits.max), to.type(limits.min)
    nan = np.array(1 << (limits.bits - 1), np.uint64).astype(to)[()] if kind == "f64" or limits.bits == 64 else to.type(0)

    def convert(a: Array) -> Array:
        whole = rounding(widen(flush(a) if ftz else a))
        inside = (whole > bottom) & (whole < top)
        clamped = np.where(whole >= top, largest, np.where(whole <= bottom, smallest, nan))
        return np.where(inside, np.where(inside, whole, 0.0).astype(to), clamped)

    return convert


_LOW_BITS = 0x7FF


def from_integer(out: str, kind: str, mode: str) -> Unary:
    """Up to 32 bits an integer is a float64; 64 bits are the sum of two, rounded once."""
    if not kind.endswith("64"):
        if out == "f64":
            return lambda a: a.astype(np.float64)
        return lambda a: narrow(a.astype(np.float64), out, mode)
    if mode == "rn" and out in ("f32", "f64"):
        return lambda a: a.astype(dtype(out))
    low = dtype(kind).type(_LOW_BITS)

    def convert(a: Array) -> Array:
        total, error = two_sum((a & ~low).astype(np.float64), (a & low).astype(np.float64))
        return directed(total, error, mode) if out == "f64" else narrow_sum(total, error, out, mode)

    return convert


def _between_floats(out: str, kind: str, integral: str | None, mode: str | None, ftz: bool, sat: bool) -> Unary:
    """Wider exactly, narrower rounded, of one width to itself; f16 and bf16 are each narrower than the other."""
    if integral and (out != kind or mode):
        raise NotThis
    loses = _RANK[out] < _RANK[kind] or (out != kind and _RANK[out] == _RANK[kind])
    if loses != (mode is not None):
        if kind != "bf16" or loses or out == kind:
            raise NotThis
        mode = None  # of bf16 to f32 or f64 a rounding may be named, and has nothing to do
    if integral:
        fn = _integral(kind, integral)
    elif mode:
        fn = _narrowing(out, kind, mode)
    elif out == kind:
        fn = lambda a: a  # noqa: E731 - one of four
    else:
        fn = _widening(out, kind)
    if ftz:
        inner, before, after = fn, kind == "f32", out == "f32"
        fn = lambda a: _flushed(inner, a, before, after)  # noqa: E731
    if sat:
        return _saturated(fn)
    return (lambda a: canonical(fn(a), out)) if out in ("f16", "bf16") else fn  # to themselves, and f16 rounded


def _flushed(fn: Unary, a: Array, before: bool, after: bool) -> Array:
    result = fn(flush(a) if before else a)
    return flush(result) if after else result


def _integral(kind: str, how: str) -> Unary:
    """To an integer that stays in its format."""
    rounding = _TO_INTEGER[how]
    if kind == "bf16":
        return lambda a: to_bf16(rounding(widen(a)).astype(np.float32))
    return rounding


def _narrowing(out: str, kind: str, mode: str) -> Unary:
    if mode == "rn" and kind == "f32":
        return to_bf16 if out == "bf16" else lambda a: a.astype(np.float16)
    if mode == "rn" and (out, kind) == ("f32", "f64"):
        return lambda a: a.astype(np.float32)
    return lambda a: narrow(widen(a), out, mode)


def _widening(out: str, kind: str) -> Unary:
    to = dtype(out)
    return (lambda a: widen(a).astype(to)) if kind == "bf16" else lambda a: a.astype(to)


def finite(x: Array, largest: Array, bits: type) -> Array:
    """Beyond the largest number of the format that number, of the sign that x has; bits: the unsigned type of its width."""
    limit = largest.view(bits) | (x.view(bits) & bits(1 << (8 * x.dtype.itemsize - 1)))
    return np.where(np.abs(x) > largest, limit.view(x.dtype), x)


@opcode("cvt")
def _to_halves(mods: Mods) -> Pure:
    """cvt.{rn,rz}{.relu}{.satfinite} from f32 to f16 and bf16, one, or two packed: a the upper, b the lower."""
    mode, relu, satfinite = mods.need("rn", "rz"), mods.flag("relu"), mods.flag("satfinite")
    out = mods.type("f16", "bf16", "f16x2", "bf16x2")
    mods.type("f32")
    mods.end()
    one = out.removesuffix("x2")
    rounded = _narrowing(one, "f32", mode)

    def convert(a: Array) -> Array:
        result = rounded(a)
        if satfinite:
            result = finite(result, _LARGEST[one], np.uint16)
        if relu:
            return rectify(result, one)
        return canonical(result, one) if one == "f16" else result

    if one == out:
        return Pure((out,), ("f32",), convert)
    sixteen = np.uint32(16)

    def pack(a: Array, b: Array) -> Array:
        upper, lower = (convert(x).view(np.uint16).astype(np.uint32) for x in (a, b))
        return (upper << sixteen) | lower

    return Pure((out,), ("f32", "f32"), pack)


@opcode("cvt")
def _to_tf32(mods: Mods) -> Pure:
    """A float32 whose lower 13 bits of 23 are zero: the register holds it as b32."""
    mode, relu, satfinite = mods.need("rna", "rn", "rz"), mods.flag("relu"), mods.flag("satfinite")
    mods.type("tf32")
    mods.type("f32")
    mods.end()
    if (relu and mode == "rna") or (satfinite and mode != "rna"):
        raise NotThis  # what sm_100 adds
    kept, last, half = np.uint32(0xFFFFE000), np.uint32(13), np.uint32(0x1000)

    def convert(a: Array) -> Array:
        bits = a.view(np.uint32)
        if mode == "rna":
            bits = bits + half
        elif mode == "rn":
            bits = bits + (half - np.uint32(1)) + ((bits >> last) & np.uint32(1))
        result = np.where(np.isnan(a), NAN["f32"], (bits & kept).view(np.float32))
        if satfinite:
            result = finite(result, _LARGEST["tf32"], np.uint32)
        return (rectify(result, "f32") if relu else result).view(np.uint32)

    return Pure(("b32",), ("f32",), convert)


@opcode("cvt")
def _pack_integers(mods: Mods) -> Pure:
    """cvt.pack.sat: a and b saturated, b the lower; into less than 16 bits c follows them, shifted up."""
    if not (mods.flag("pack") and mods.flag("sat")):
        raise NotThis
    out = mods.type("u16", "s16", "u8", "s8", "u4", "s4", "u2", "s2")
    mods.type("s32")
    width = int(out[1:])
    if width < 16:
        mods.type("b32")
    mods.end()
    low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if out[0] == "s" else (0, (1 << width) - 1)
    mask, shift = np.uint32((1 << width) - 1), np.uint32(width)

    def pack(a: Array, b: Array) -> Array:
        upper, lower = (np.clip(x, np.int32(low), np.int32(high)).view(np.uint32) & mask for x in (a, b))
        return (upper << shift) | lower

    if width == 16:
        return Pure(("b32",), ("s32", "s32"), pack)
    return Pure(("b32",), ("s32", "s32", "b32"), lambda a, b, c: pack(a, b) | (c << (shift + shift)))
