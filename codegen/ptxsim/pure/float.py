"""Arithmetic of f32, f64, f16 and bf16. To nearest numpy's f32 and f64 are right as they stand, subnormals included.

Which NaN f32 and f64 arithmetic returns the ISA leaves open: here it is the processor's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from treadle.codegen.ptxsim.pure import exact
from treadle.codegen.ptxsim.pure.finish import NAN, finish, flush, modes
from treadle.codegen.ptxsim.pure.packed import halves
from treadle.codegen.ptxsim.pure.rounding import (
    directed,
    from_bf16,
    narrow,
    narrow_sum,
    to_bf16,
    two_product,
    two_sum,
    widen,
    zero_sum,
)
from treadle.codegen.ptxsim.pure.table import Array, Mods, NotThis, Pure, dtype, opcode

HALVES = ("f16", "f16x2", "bf16", "bf16x2")
_UFUNCS = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
Binary = Callable[[Array, Array], Array]


def _add_directed(kind: str, mode: str) -> Binary:
    if kind == "f64":
        scalar = exact.fma(mode)

        def add_f64(a: Array, b: Array) -> Array:
            total, error = two_sum(a, b)
            total = directed(zero_sum(total, a, b, mode), error, mode)
            return exact.repair(total, ~exact.plain(a, b), scalar, a, np.float64(1), b)

        return add_f64

    def add(a: Array, b: Array) -> Array:
        a, b = widen(a), widen(b)
        total, error = two_sum(a, b)
        return narrow_sum(zero_sum(total, a, b, mode), error, kind, mode)

    return add


def _mul_directed(kind: str, mode: str) -> Binary:
    if kind == "f64":
        scalar = exact.multiply(mode)

        def mul_f64(a: Array, b: Array) -> Array:
            return exact.repair(directed(*two_product(a, b), mode), ~exact.plain(a, b), scalar, a, b)

        return mul_f64
    return lambda a, b: narrow(widen(a) * widen(b), kind, mode)


def _quotient(a: Array, b: Array) -> tuple[Array, Array]:
    """a / b to nearest, and the sign of what it lacks: that of the remainder, which is a float64, over b."""
    quotient = a / b
    high, low = two_product(quotient, b)
    return quotient, np.sign((a - high) - low) * np.sign(b)


def _root(a: Array) -> tuple[Array, Array]:
    root = np.sqrt(a)
    high, low = two_product(root, root)
    return root, (a - high) - low


def _directed(
    kind: str, mode: str, operation: Callable[..., tuple[Array, Array]], scalar: Callable[..., float]
) -> Callable[..., Array]:
    """An operation that gives its float64 result and the sign of what that lacks, as one of a type and a mode."""
    if kind == "f64":
        return lambda *x: exact.repair(directed(*operation(*x), mode), ~exact.plain(*x), scalar, *x)
    return lambda *x: narrow_sum(*operation(*(y.astype(np.float64) for y in x)), kind, mode)


def binary(name: str, kind: str, mode: str) -> Binary:
    """add, sub, mul or div of a type in a rounding mode."""
    if kind == "bf16":
        return {"add": _add_bf16, "sub": lambda a, b: _add_bf16(a, -b), "mul": _mul_directed("bf16", "rn")}[name]
    if mode == "rn":
        return _UFUNCS[name]  # f16 through f32: its 24 bits are enough for one operation on 11 to be rounded twice
    if name == "div":
        return _directed(kind, mode, _quotient, exact.divide(mode))
    if name == "mul":
        return _mul_directed(kind, mode)
    add = _add_directed(kind, mode)
    return add if name == "add" else lambda a, b: add(a, -b)


def _add_bf16(a: Array, b: Array) -> Array:
    """Twice rounded, which 24 bits are enough for; no sum is a float32 subnormal that is no bf16."""
    return to_bf16(from_bf16(a) + from_bf16(b))


@opcode("add", "sub", "mul")
def _arithmetic(mods: Mods) -> Pure:
    mode, ftz, sat = mods.one(*modes) or "rn", mods.flag("ftz"), mods.flag("sat")
    kind = mods.type("f32", "f64", *HALVES)
    mods.end()
    one = kind.removesuffix("x2")
    if (one in ("f64", "bf16") and (ftz or sat)) or (one in ("f16", "bf16") and mode != "rn"):
        raise NotThis
    fn = finish(binary(mods.opcode, one, mode), one, ftz=ftz, sat=sat)
    return Pure((kind,), (kind, kind), halves(fn, one) if kind != one else fn)


@opcode("div", "rcp", "sqrt")
def _exact_division(mods: Mods) -> Pure:
    mode, ftz = mods.need(*modes), mods.flag("ftz")
    kind = mods.type("f32", "f64")
    mods.end()
    if kind == "f64" and ftz:
        raise NotThis
    if mods.opcode == "sqrt":
        root = np.sqrt if mode == "rn" else _directed(kind, mode, _root, exact.root(mode))
        return Pure((kind,), (kind,), finish(root, kind, ftz=ftz))
    divide = finish(binary("div", kind, mode), kind, ftz=ftz)
    if mods.opcode == "div":
        return Pure((kind,), (kind, kind), divide)
    one = np.ones((), dtype(kind))
    return Pure((kind,), (kind,), lambda a: divide(one, a))


def _sign_bit(kind: str) -> tuple[Array, type]:
    width = dtype(kind).itemsize
    bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[width]
    return bits(1 << (8 * width - 1)), bits


@opcode("abs", "neg")
def _sign(mods: Mods) -> Pure:
    """On the bits: a NaN keeps its payload, which the ISA allows, and loses or turns its sign."""
    ftz = mods.flag("ftz")
    kind = mods.type("f32", "f64", *HALVES)
    mods.end()
    one = kind.removesuffix("x2")
    if ftz and one not in ("f32", "f16"):
        raise NotThis
    sign, bits = _sign_bit(one)
    as_type = dtype(one)

    def absolute(a: Array) -> Array:
        return (a.view(bits) & ~sign).view(as_type)

    def negate(a: Array) -> Array:
        return (a.view(bits) ^ sign).view(as_type)

    plain = absolute if mods.opcode == "abs" else negate
    fn = (lambda a: plain(flush(a, one))) if ftz else plain
    return Pure((kind,), (kind,), halves(fn, one) if kind != one else fn)


def extreme(name: str, kind: str, *, ftz: bool = False, nan: bool = False, xorsign: bool = False) -> Binary:
    """min and max: -0 below +0; one NaN loses, or wins with .NaN; where a NaN is the result it is the canonical one."""
    sign, bits = _sign_bit(kind)
    as_type = dtype(kind)
    pick = {"min": (np.fmin, np.minimum), "max": (np.fmax, np.maximum)}[name][nan]
    # Of equal values only zeros have different bits: min takes a sign that either has, max one that both have.
    of_equals = np.bitwise_or if name == "min" else np.bitwise_and

    def choose(a: Array, b: Array) -> Array:
        result = pick(a, b)
        usual = np.abs(result) > 0
        if np.count_nonzero(usual) == usual.size:
            return result
        result = np.where(a == b, of_equals(a.view(bits), b.view(bits)).view(as_type), result)
        return np.where(np.isnan(result), NAN[kind], result)

    fn = choose
    if xorsign:

        def with_sign(a: Array, b: Array) -> Array:
            a_bits, b_bits = a.view(bits), b.view(bits)
            magnitude = choose((a_bits & ~sign).view(as_type), (b_bits & ~sign).view(as_type))
            return np.where(np.isnan(magnitude), magnitude, (magnitude.view(bits) | ((a_bits ^ b_bits) & sign)).view(as_type))

        fn = with_sign
    return (lambda a, b: fn(flush(a, kind), flush(b, kind))) if ftz else fn


@opcode("min", "max")
def _extreme(mods: Mods) -> Pure:
    ftz, nan = mods.flag("ftz"), mods.flag("NaN")
    xorsign = mods.flag("xorsign")
    if xorsign != mods.flag("abs"):
        raise NotThis
    kind = mods.type("f32", "f64", *HALVES)
    mods.end()
    one = kind.removesuffix("x2")
    if (kind == "f64" and (nan or xorsign)) or (ftz and one not in ("f32", "f16")):
        raise NotThis
    fn = extreme(mods.opcode, one, ftz=ftz, nan=nan, xorsign=xorsign)
    return Pure((kind,), (kind, kind), halves(fn, one) if kind != one else fn)


@opcode("copysign")
def _copysign(mods: Mods) -> Pure:
    """The sign of a with the magnitude of b."""
    kind = mods.type("f32", "f64")
    mods.end()
    return Pure((kind,), (kind, kind), lambda a, b: np.copysign(b, a))


@opcode("testp")
def _testp(mods: Mods) -> Pure:
    test = mods.need("finite", "infinite", "number", "notanumber", "normal", "subnormal")
    kind = mods.type("f32", "f64")
    mods.end()
    tiny = np.finfo(dtype(kind)).smallest_normal
    tests: dict[str, Callable[[Array], Array]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: ~np.isnan(a),
        "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & ((np.abs(a) >= tiny) | (a == 0)),  # the ISA counts zeros among them
        "subnormal": lambda a: (np.abs(a) < tiny) & (a != 0),
    }
    return Pure(("pred",), (kind,), tests[test])
