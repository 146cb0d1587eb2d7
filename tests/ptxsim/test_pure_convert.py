"""Conversions against exact fractions: every pair of types, every rounding, every saturation."""

from fractions import Fraction
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

from .pure_reference import (
    FORMATS,
    INF,
    call,
    compare,
    decode,
    draw,
    edges,
    encode,
    flushed,
    infinity,
    integers,
    number,
    signed,
    wrap,
)

INTEGERS = [f"{sign}{width}" for sign in "us" for width in (8, 16, 32, 64)]
FLOATS = ["f16", "bf16", "f32", "f64"]
MODES = ("rn", "rz", "rm", "rp")
N = 600


def limits(kind):
    width = int(kind[1:])
    return (-(1 << (width - 1)), (1 << (width - 1)) - 1) if kind[0] == "s" else (0, (1 << width) - 1)


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("out", INTEGERS)
def test_integers(out, kind):
    col = integers(int(kind[1:]), N, 1)
    assert call(f"cvt.{out}.{kind}", col) == [wrap(number(x, kind), out) for x in col]
    (low, high), (least, most) = limits(out), limits(kind)
    if least < low or high < most:
        got = call(f"cvt.sat.{out}.{kind}", col)
        assert got == [wrap(min(max(number(x, kind), low), high), out) for x in col]


def rounded(value, how):
    """A fraction to an integer."""
    floor = value.numerator // value.denominator
    rest = value - floor
    return {
        "rni": round(value),  # Python's round is to even
        "rzi": floor + (value < 0 and rest > 0),
        "rmi": floor,
        "rpi": floor + (rest > 0),
    }[how]


def near_integers(kind, n, seed):
    """Halves and quarters of integers, and what lies beside the limits of every integer type."""
    rng = np.random.default_rng(seed)
    some = [(bool(rng.integers(2)), Fraction(int(rng.integers(0, 1 << int(rng.integers(1, 12)))), 4)) for _ in range(n)]
    for width in (7, 8, 15, 16, 31, 32, 63, 64):
        some += [
            (neg, Fraction(2) ** width + d) for neg in (False, True) for d in (-2, -1, Fraction(-1, 2), 0, Fraction(1, 2), 1)
        ]
    bits = [encode(v, kind) for v in some]
    return bits + [b + d for b in bits[-96:] for d in (-1, 1)]


@pytest.mark.parametrize("how", ["rni", "rzi", "rmi", "rpi"])
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("out", INTEGERS)
def test_floats_to_integers(out, kind, how):
    col = draw(kind, N, 1) + edges(kind) + near_integers(kind, 200, 2)
    low, high = limits(out)

    def convert(value):
        negative, size = value
        if size is None:
            return 1 << int(out[1:]) - 1 if kind == "f64" or out.endswith("64") else 0
        if size == INF:
            return wrap(low if negative else high, out)
        return wrap(min(max(rounded(signed(value), how), low), high), out)

    assert call(f"cvt.{how}.{out}.{kind}", col) == [convert(decode(x, kind)) for x in col]
    if kind != "bf16":
        assert call(f"cvt.{how}.sat.{out}.{kind}", col) == [convert(decode(x, kind)) for x in col]
    if kind == "f32":
        assert call(f"cvt.{how}.ftz.{out}.f32", col) == [convert(flushed(decode(x, kind), kind)) for x in col]


def near_ties(kind, out, n, seed):
    """Integers whose bits past the float's precision are just those of a tie, or one off it."""
    rng = np.random.default_rng(seed)
    width, precision = int(kind[1:]), FORMATS[out][0]
    some = []
    for _ in range(n):
        shift = max(width - precision - int(rng.integers(0, 4)), 1)
        top = int.from_bytes(rng.bytes(8), "little") % (1 << max(width - shift, 1))
        some.append((top << shift) + (1 << (shift - 1)) + int(rng.integers(-1, 2)) & (1 << width) - 1)
    return some


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("out", FLOATS)
def test_integers_to_floats(out, kind, mode):
    col = integers(int(kind[1:]), N, 1) + near_ties(kind, out, N, 2)
    values = [number(x, kind) for x in col]
    compare(f"cvt.{mode}.{out}.{kind}", [col], [encode((v < 0, Fraction(abs(v))), out, mode) for v in values], out)


def test_integers_to_a_saturated_float():
    col = integers(32, N, 1)
    assert call("cvt.rn.sat.f32.s32", col) == [0x3F800000 if number(x, "s32") >= 1 else 0 for x in col]


def between(out, kind, mode, col, ftz=False, sat=False, relu=False, satfinite=False):
    """Rounded once, with what the modifiers do before and after."""
    results = []
    for x in col:
        value = decode(x, kind)
        if ftz and kind == "f32":
            value = flushed(value, "f32")
        bits = encode(value, out, mode or "rn")
        if bits == "nan":
            results.append(0 if sat else bits)
            continue
        negative, size = decode(bits, out)
        if ftz and out == "f32":
            negative, size = flushed((negative, size), "f32")
        if satfinite and size == INF:
            size = decode(infinity(out) - 1, out)[1]
        if sat:
            negative, size = (
                (False, Fraction(0))
                if negative or size == 0
                else (False, Fraction(1))
                if size == INF or size > 1
                else (False, size)
            )
        if relu and (negative or size == 0):
            negative, size = False, Fraction(0)
        results.append(encode((negative, size), out))
    return results


def ties(kind, out, n, seed):
    """Values of a type whose bits past the precision of another are those of a tie, or one off it."""
    rng = np.random.default_rng(seed)
    width, shift = FORMATS[kind][3], FORMATS[kind][0] - FORMATS[out][0]
    col = draw(kind, n, seed)
    if shift <= 0:
        return col
    return [max((x >> shift << shift) + (1 << (shift - 1)) + int(rng.integers(-1, 2)), 0) & (1 << width) - 1 for x in col]


PAIRS = [(out, kind) for out in FLOATS for kind in FLOATS]


@pytest.mark.parametrize(("out", "kind"), PAIRS)
def test_floats(out, kind):
    size = {"f16": 0, "bf16": 0, "f32": 1, "f64": 2}
    loses = size[out] < size[kind] or (size[out] == size[kind] and out != kind)
    col = draw(kind, N, 1) + ties(kind, out, N, 2) + edges(kind) + of_subnormals(kind, out)
    canonical = out in ("f16", "bf16")
    for mode in MODES if loses else (None,):
        rounding = f".{mode}" if mode else ""
        compare(f"cvt{rounding}.{out}.{kind}", [col], between(out, kind, mode, col), out, canonical)
        if "bf16" not in (out, kind):
            compare(f"cvt{rounding}.sat.{out}.{kind}", [col], between(out, kind, mode, col, sat=True), out, canonical)
        if "f32" in (out, kind):
            compare(f"cvt{rounding}.ftz.{out}.{kind}", [col], between(out, kind, mode, col, ftz=True), out, canonical)


def of_subnormals(kind, out):
    """Values in the range where the other type has subnormals, and below it."""
    lowest, precision = FORMATS[out][1], FORMATS[out][0]
    some = []
    for exponent in range(lowest - precision - 3, lowest + 3):
        for fraction in (8, 9, 12, 13, 15):
            some += [encode((neg, Fraction(fraction, 8) * Fraction(2) ** exponent), kind) for neg in (False, True)]
    return some


@pytest.mark.parametrize("how", ["rni", "rzi", "rmi", "rpi"])
@pytest.mark.parametrize("kind", FLOATS)
def test_floats_to_integral_floats(kind, how):
    col = draw(kind, N, 1) + near_integers(kind, 200, 2)

    def convert(value):
        negative, size = value
        if size in (None, INF):
            return encode(value, kind)
        return encode((negative, Fraction(abs(rounded(signed(value), how)))), kind)

    compare(f"cvt.{how}.{kind}.{kind}", [col], [convert(decode(x, kind)) for x in col], kind)
    if kind == "f32":
        expected = [convert(flushed(decode(x, kind), kind)) for x in col]
        compare(f"cvt.{how}.ftz.f32.f32", [col], expected, kind)


@pytest.mark.parametrize("mode", ["rn", "rz"])
@pytest.mark.parametrize("out", ["f16", "bf16"])
@pytest.mark.parametrize("modifiers", ["", "relu", "satfinite", "relu.satfinite"])
def test_to_halves(out, mode, modifiers):
    names = f".{modifiers}" if modifiers else ""
    flags = {name: True for name in modifiers.split(".") if name}
    a = draw("f32", N, 1) + ties("f32", out, N, 2) + edges("f32") + of_subnormals("f32", out)
    expected = [FORMATS[out][4] if x == "nan" else x for x in between(out, "f32", mode, a, **flags)]
    compare(f"cvt.{mode}{names}.{out}.f32", [a], expected)
    b = a[100:] + a[:100]
    packed = [x << 16 | y for x, y in zip(expected, expected[100:] + expected[:100], strict=True)]
    assert call(f"cvt.{mode}{names}.{out}x2.f32", a, b) == packed


@pytest.mark.parametrize(
    ("mode", "modifiers"), [("rna", ""), ("rna", "satfinite"), ("rn", ""), ("rz", ""), ("rn", "relu"), ("rz", "relu")]
)
def test_to_tf32(mode, modifiers):
    """19 bits on top of a register of 32."""
    names, flags = (f".{modifiers}", {modifiers: True}) if modifiers else ("", {})
    col = draw("f32", N, 1) + ties("f32", "tf32", N, 2) + edges("f32")
    expected = [0x7FFFFFFF if x == "nan" else x << 13 for x in between("tf32", "f32", mode, col, **flags)]
    compare(f"cvt.{mode}{names}.tf32.f32", [col], expected)


def codes(kind):
    """The numbers of an fp8 type by their codes, as another package has them."""
    of = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}[kind]
    return np.arange(256, dtype=np.uint8).view(of).astype(np.float64)


def to_fp8(value, kind):
    """The nearest of the codes of positive numbers, the even one of two as near; beyond the largest, that one."""
    negative, size = value
    if size is None:
        return 0x7F
    numbers = [Fraction(float(x)) for x in codes(kind)[:128] if np.isfinite(x)]
    if size == INF or size > numbers[-1]:
        return len(numbers) - 1 | negative << 7
    best = min(range(len(numbers)), key=lambda i: (abs(numbers[i] - size), i % 2))
    return best | negative << 7


def fp8_operands(kind, float_kind):
    """Every number of the type, every midpoint, and what lies beside each."""
    numbers = [Fraction(float(x)) for x in codes(kind)[:128] if np.isfinite(x)]
    exact = numbers + [(x + y) / 2 for x, y in pairwise(numbers)] + [numbers[-1] * Fraction(17, 16)]
    bits = [encode((neg, v), float_kind) for v in exact for neg in (False, True)]
    return bits + [max(b + d, 0) for b in bits for d in (-1, 1)] + edges(float_kind) + draw(float_kind, 300, 1)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("float_kind", ["f32", "f16"])
@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_to_fp8(kind, float_kind, relu):
    a = fp8_operands(kind, float_kind)
    values = [decode(x, float_kind) for x in a]
    if relu:
        values = [(False, Fraction(0)) if v[1] is not None and v[0] else v for v in values]
    expected = [to_fp8(v, kind) for v in values]
    turned = expected[50:] + expected[:50]
    name = f"cvt.rn.satfinite{'.relu' if relu else ''}.{kind}x2"
    b = a[50:] + a[:50]
    if float_kind == "f32":
        got = call(f"{name}.f32", a, b)
    else:
        got = call(f"{name}.f16x2", [x << 16 | y for x, y in zip(a, b, strict=True)])
    assert got == [x << 8 | y for x, y in zip(expected, turned, strict=True)]


@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_from_fp8(kind):
    numbers = codes(kind)
    halves = [0x7FFF if np.isnan(x) else int(np.float16(x).view(np.uint16)) for x in numbers]
    col = [x << 8 | y for x in range(0, 256) for y in (0, 1, x, 255 - x)]
    assert call(f"cvt.rn.f16x2.{kind}x2", col) == [halves[x >> 8] << 16 | halves[x & 255] for x in col]
    clamped = [0 if h >> 15 else h for h in halves]
    assert call(f"cvt.rn.relu.f16x2.{kind}x2", col) == [clamped[x >> 8] << 16 | clamped[x & 255] for x in col]


@pytest.mark.parametrize("out", ["u16", "s16", "u8", "s8", "u4", "s4", "u2", "s2"])
def test_pack(out):
    a, b, c = (integers(32, N, i) for i in range(3))
    width, (low, high) = int(out[1:]), limits(out)

    def field(x):
        return min(max(number(x, "s32"), low), high) & (1 << width) - 1

    both = [field(x) << width | field(y) for x, y in zip(a, b, strict=True)]
    if width == 16:
        assert call(f"cvt.pack.sat.{out}.s32", a, b) == both
    else:
        expected = [wrap(z << 2 * width | x, "u32") for x, z in zip(both, c, strict=True)]
        assert call(f"cvt.pack.sat.{out}.s32.b32", a, b, c) == expected
