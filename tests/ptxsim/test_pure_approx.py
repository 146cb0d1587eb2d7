"""The approximations: within the errors that the ISA states, against decimals of fifty digits, and its special cases."""

from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest

from .pure_reference import call, decode, draw, edges, encode, flushed, infinity, signed

N = 900
INF32, NAN32, TOP = 0x7F800000, "nan", 0x80000000


@pytest.fixture(autouse=True)
def digits():
    before = getcontext().prec
    getcontext().prec = 50
    yield
    getcontext().prec = before


def decimal(x):
    return Decimal(x.numerator) / Decimal(x.denominator)


def sine(x):
    """By its series, of a number of moderate size."""
    term, total, n = x, x, 1
    while abs(term) > Decimal(10) ** -45:
        term *= -x * x / ((n + 1) * (n + 2))
        total, n = total + term, n + 2
    return total


HALF_PI = Decimal("1.57079632679489661923132169163975144209858469968755291")


def hyperbolic(x):
    """tanh x; near 0 by the exponential of a number that loses nothing that is asked for."""
    e = (2 * x).exp()
    return (e - 1) / (e + 1)


EXACT = {
    "rcp": lambda x: 1 / x,
    "sqrt": Decimal.sqrt,
    "rsqrt": lambda x: 1 / x.sqrt(),
    "ex2": lambda x: (x * Decimal(2).ln()).exp(),
    "lg2": lambda x: x.ln() / Decimal(2).ln(),
    "sin": sine,
    "cos": lambda x: sine(HALF_PI - x),
    "tanh": hyperbolic,
}
# operands from, to; the error that the ISA allows: relative, or absolute
BOUNDS = {
    "rcp": (2.0**-126, 2.0**126, "relative", 2.0**-23),
    "sqrt": (2.0**-126, 2.0**127, "relative", 2.0**-23),
    "rsqrt": (2.0**-126, 2.0**127, "relative", 2.0**-22.9),
    "ex2": (-126, 127.9, "relative", 2.0**-22.5),
    "lg2": (2.0**-126, 2.0**127, "either", 2.0**-22),
    "sin": (-6.28, 6.28, "absolute", 2.0**-20.5),
    "cos": (-6.28, 6.28, "absolute", 2.0**-20.5),
    "tanh": (-20, 20, "relative", 2.0**-11),
}


def within(x, exact, how, bound):
    error = abs(decimal(x) - exact)
    limits = {"relative": abs(exact), "absolute": Decimal(1), "either": max(abs(exact), Decimal(1))}
    return error <= limits[how] * Decimal(bound)


def spread(low, high, n):
    """Numbers between two: evenly, or by their exponents where the range is of positive numbers."""
    rng = np.random.default_rng(1)
    if low > 0:
        return np.exp2(rng.uniform(np.log2(low), np.log2(high), n))
    return np.concatenate(
        [rng.uniform(low, high, n // 2), rng.uniform(low, high, n - n // 2) * 2.0 ** -rng.integers(0, 20, n - n // 2)]
    )


@pytest.mark.parametrize(("opcode", "ftz"), [(o, f) for o in EXACT for f in ("", ".ftz") if (o, f) != ("tanh", ".ftz")])
def test_errors_in_f32(opcode, ftz):
    low, high, how, bound = BOUNDS[opcode]
    col = spread(low, high, N).astype(np.float32).view(np.uint32).tolist()
    got = call(f"{opcode}.approx{ftz}.f32", col)
    for x, g in zip(col, got, strict=True):
        exact = EXACT[opcode](decimal(signed(decode(x, "f32"))))
        if ftz and abs(exact) < Decimal(2) ** -126:
            assert g & ~TOP == 0
            continue
        assert within(signed(decode(g, "f32")), exact, how, bound), (hex(x), hex(g))


@pytest.mark.parametrize(("name", "how", "bound"), [
    ("ex2.approx.f16", "relative", 2.0**-9.9), ("ex2.approx.ftz.bf16", "relative", 2.0**-7),
    ("tanh.approx.f16", "absolute", 2.0**-10.987), ("tanh.approx.bf16", "absolute", 2.0**-8),
])  # fmt: skip
def test_errors_in_halves(name, how, bound):
    kind = name.split(".")[-1]
    low, high = (-13.9, 15.9) if name.startswith("ex2") else (-9, 9)
    col = [encode((x < 0, abs(Fraction(float(x)))), kind) for x in spread(low, high, N)]
    for x, g in zip(col, call(name, col), strict=True):
        exact = EXACT[name.split(".")[0]](decimal(signed(decode(x, kind))))
        assert within(signed(decode(g, kind)), exact, how, bound), (hex(x), hex(g))


SPECIAL = {  # of -inf, the smallest negative normal number, -0, +0, the smallest normal number, +inf
    "rcp": [TOP, 0xFE800000, TOP | INF32, INF32, 0x7E800000, 0],
    "sqrt": [NAN32, NAN32, TOP, 0, 0x20000000, INF32],
    "rsqrt": [NAN32, NAN32, TOP | INF32, INF32, 0x5F000000, 0],
    "lg2": [NAN32, NAN32, TOP | INF32, TOP | INF32, 0xC2FC0000, INF32],
    "ex2": [0, 0x3F800000, 0x3F800000, 0x3F800000, 0x3F800000, INF32],
    "sin": [NAN32, TOP | 0x00800000, TOP, 0, 0x00800000, NAN32],
    "cos": [NAN32, 0x3F800000, 0x3F800000, 0x3F800000, 0x3F800000, NAN32],
    "tanh": [0xBF800000, TOP | 0x00800000, TOP, 0, 0x00800000, 0x3F800000],
}


@pytest.mark.parametrize("opcode", SPECIAL)
def test_special_operands(opcode):
    col = [TOP | INF32, TOP | 0x00800000, TOP, 0, 0x00800000, INF32, 0x7FC00001, 0xFFFFFFFF]
    for ftz in ("",) if opcode == "tanh" else ("", ".ftz"):
        for x, g, e in zip(col, call(f"{opcode}.approx{ftz}.f32", col), [*SPECIAL[opcode], NAN32, NAN32], strict=True):
            assert (g & ~TOP > INF32) if e == NAN32 else g == e, (opcode, hex(x), hex(g))


@pytest.mark.parametrize("opcode", [name for name in SPECIAL if name != "tanh"])
def test_ftz_takes_subnormals_for_zeros(opcode):
    """In and out; without it they are numbers, and the smallest of their reciprocals overflow."""
    col = [1, 0x7FFFFF, 0x400000, TOP | 1, TOP | 0x7FFFFF]
    zeros = call(f"{opcode}.approx.ftz.f32", [x & TOP for x in col])
    assert call(f"{opcode}.approx.ftz.f32", col) == zeros
    if opcode == "rcp":
        assert call("rcp.approx.f32", [0x400000, 0x7F000000]) == [0x7F000000, 0x400000]
        assert call("rcp.approx.ftz.f32", [0x7F000000, 0xFF000000]) == [0, TOP]
    if opcode == "ex2":
        assert call("ex2.approx.f32", [0xC2FE0000]) == [0x400000]  # 2^-127
        assert call("ex2.approx.ftz.f32", [0xC2FE0000]) == [0]


@pytest.mark.parametrize("name", ["div.approx", "div.full"])
def test_division(name):
    """Two ulps, of which none is used; approx makes zeros where the divisor is beyond 2^126."""
    a, b = draw("f32", N, 1) + edges("f32"), draw("f32", N, 2) + edges("f32")[::-1]
    for ftz in ("", ".ftz"):
        for x, y, g in zip(a, b, call(f"{name}{ftz}.f32", a, b), strict=True):
            p, q = decode(x, "f32"), decode(y, "f32")
            if ftz:
                p, q = flushed(p, "f32"), flushed(q, "f32")
            if p[1] in (None, "inf") or q[1] in (None, "inf") or p[1] == 0 or q[1] == 0:
                continue
            exact = p[1] / q[1]
            if name == "div.approx" and q[1] > Fraction(2) ** 126:
                exact = Fraction(0)
            negative, size = decode(g, "f32")
            assert negative == (p[0] != q[0])
            if exact < Fraction(2) ** -126:
                assert size == 0 if ftz or exact == 0 else abs(size - exact) <= Fraction(2) ** -148
            elif exact > decode(INF32 - 1, "f32")[1]:
                assert size == "inf" or size == decode(INF32 - 1, "f32")[1]
            else:
                assert abs(size - exact) <= exact * Fraction(2) ** -22


def test_division_of_and_by_the_ends():
    inf, one, zero, big = INF32, 0x3F800000, 0, 0x7F000001
    a, b = [inf, one, zero, inf, one, inf, TOP | one, inf], [one, inf, zero, inf, zero, zero, big, big]
    for x, y, g, e in zip(a, b, call("div.approx.f32", a, b), [inf, 0, NAN32, NAN32, inf, inf, TOP, NAN32], strict=True):
        assert (g & ~TOP > INF32) if e == NAN32 else g == e, (hex(x), hex(y), hex(g))
    assert call("div.full.f32", [0x7F000002], [big])[0] & 0xFFFFFF00 == 0x3F800000


@pytest.mark.parametrize("opcode", ["rcp", "rsqrt"])
def test_gross_approximations_of_f64(opcode):
    """The lower words are zero, subnormals are flushed, a NaN is the canonical one; 20 bits are right."""
    col = [x & ~(1 << 63) for x in draw("f64", N, 1)] + [x & ~(1 << 63) for x in edges("f64")]
    for x, g in zip(col, call(f"{opcode}.approx.ftz.f64", col), strict=True):
        if x > infinity("f64"):
            assert g == 0x7FFFFFFF00000000 or g == 0x7FFFFFFFFFFFFFFF
            continue
        assert g & 0xFFFFFFFF == 0
        _, size = flushed(decode(x, "f64"), "f64")
        if size == 0:
            assert g == infinity("f64")
        elif size == "inf":
            assert g == 0
        else:
            exact = EXACT[opcode](decimal(size))
            if exact < Decimal(2) ** -1022:
                assert g == 0
            else:
                assert abs(decimal(decode(g, "f64")[1]) - exact) <= exact * Decimal(2) ** -18
    assert call(f"{opcode}.approx.ftz.f64", [0xFFF << 52]) == (
        [1 << 63] if opcode == "rcp" else call(f"{opcode}.approx.ftz.f64", [0x7FF8 << 48])
    )


def test_rsqrt_of_f64():
    col = [x & ~(1 << 63) for x in draw("f64", 300, 1)]
    for x, g in zip(col, call("rsqrt.approx.f64", col), strict=True):
        size = decode(x, "f64")[1]
        if isinstance(size, Fraction) and size:
            exact = EXACT["rsqrt"](decimal(size))
            assert abs(decimal(decode(g, "f64")[1]) - exact) <= exact * Decimal(2) ** -51
