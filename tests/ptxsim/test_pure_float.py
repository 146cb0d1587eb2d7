"""Floating-point opcodes against exact fractions, rounded once: every type, mode and modifier, on edges and ties."""

from fractions import Fraction

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
    product,
    quotient,
    root,
    total,
)

MODES = ("rn", "rz", "rm", "rp")
ONE = (False, Fraction(1))
PLAIN = [(kind, mode) for kind in ("f32", "f64") for mode in MODES]
N = 900


def negated(x):
    return not x[0], x[1]


OPERATIONS = {
    "add": lambda mode, x, y: total(x, y, mode),
    "sub": lambda mode, x, y: total(x, negated(y), mode),
    "mul": lambda mode, x, y: product(x, y),
    "div": lambda mode, x, y: quotient(x, y),
    "rcp": lambda mode, x: quotient(ONE, x),
    "fma": lambda mode, x, y, z: total(product(x, y), z, mode),
    "mad": lambda mode, x, y, z: total(product(x, y), z, mode),
}
ARITY = {"add": 2, "sub": 2, "mul": 2, "div": 2, "rcp": 1, "fma": 3, "mad": 3}


def columns(kind, arity, n=N, seed=1):
    return [draw(kind, n, seed * 10 + i) for i in range(arity)]


def saturated(value):
    negative, size = value
    if size is None or negative or size == 0:
        return False, Fraction(0)
    return ONE if size == INF or size > 1 else value


def rectified(value):
    negative, size = value
    return (False, Fraction(0)) if size is not None and (negative or size == 0) else value


def expect(operation, kind, mode, operands, ftz=False, sat=False, relu=False):
    values = [decode(x, kind) for x in operands]
    if ftz:
        values = [flushed(v, kind) for v in values]
    bits = encode(operation(mode, *values), kind, mode)
    if bits == "nan":
        return 0 if sat else bits
    value = decode(bits, kind)
    if ftz:
        value = flushed(value, kind)
    if sat:
        value = saturated(value)
    if relu:
        value = rectified(value)
    return encode(value, kind)


def held(name, opcode, kind, mode, cols, **modifiers):
    expected = [expect(OPERATIONS[opcode], kind, mode, row, **modifiers) for row in zip(*cols, strict=True)]
    canonical = kind in ("f16", "bf16")
    compare(name, cols, expected, kind, canonical)


@pytest.mark.parametrize(("kind", "mode"), PLAIN)
@pytest.mark.parametrize("opcode", ARITY)
def test_exact(opcode, kind, mode):
    implied = mode == "rn" and opcode in ("add", "sub", "mul")
    name = f"{opcode}.{kind}" if implied else f"{opcode}.{mode}.{kind}"
    held(name, opcode, kind, mode, columns(kind, ARITY[opcode]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("opcode", ARITY)
def test_modifiers_of_f32(opcode, mode):
    cols = columns("f32", ARITY[opcode], 600, 2)
    held(f"{opcode}.{mode}.ftz.f32", opcode, "f32", mode, cols, ftz=True)
    if opcode not in ("div", "rcp"):
        held(f"{opcode}.{mode}.sat.f32", opcode, "f32", mode, cols, sat=True)
        held(f"{opcode}.{mode}.ftz.sat.f32", opcode, "f32", mode, cols, ftz=True, sat=True)


@pytest.mark.parametrize(("kind", "mode"), PLAIN)
def test_sqrt(kind, mode):
    (col,) = columns(kind, 1, 400)
    col += [b & ~(1 << (FORMATS[kind][3] - 1)) for b in col]
    compare(f"sqrt.{mode}.{kind}", [col], [root(decode(x, kind), kind, mode) for x in col], kind)


def test_sqrt_ftz():
    (col,) = columns("f32", 1, 400)
    expected = [root(flushed(decode(x, "f32"), "f32"), "f32", "rn") for x in col]
    compare("sqrt.rn.ftz.f32", [col], expected, "f32")


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
def test_fma_of_products_that_nearly_cancel(kind):
    """c is -(a * b) rounded, give or take an ulp: nothing but the exact product has the rest."""
    a, b = columns(kind, 2, N, 3)
    exact = [product(decode(x, kind), decode(y, kind)) for x, y in zip(a, b, strict=True)]
    c = [encode(p, kind) for p in exact]
    top = 1 << (FORMATS[kind][3] - 1)
    c = [0 if x == "nan" else (x ^ top) + (i % 3 - 1) & 2 * top - 1 for i, x in enumerate(c)]
    held(f"fma.rn.{kind}", "fma", kind, "rn", [a, b, c])
    if kind in ("f32", "f64"):
        for mode in MODES[1:]:
            held(f"fma.{mode}.{kind}", "fma", kind, mode, [a, b, c])


@pytest.mark.parametrize(("kind", "middle"), [("f32", 24), ("f64", 53)])
@pytest.mark.parametrize("mode", MODES)
def test_fma_whose_tie_is_broken_far_below(kind, middle, mode):
    """1 + half an ulp, and a product too small to be seen by any format of twice the bits."""
    precision, lowest, *_ = FORMATS[kind]
    one = -lowest + 1 << precision - 1
    a, b, c = [], [], []
    for exponent in range(2, 110):
        for sign in (0, 1):
            # 1 + 2^-p is no float: it is a * b + c with a * b = 2^-p + or - something tiny, in steps of the fraction.
            tiny = one - (exponent << precision - 1)
            a += [one - (middle << precision - 1) | 1, one - (middle << precision - 1), tiny | sign << FORMATS[kind][3] - 1]
            b += [one, one + 1, one]
            c += [one, one + 1, one - (middle - 1 << precision - 1) | 1]
    held(f"fma.{mode}.{kind}", "fma", kind, mode, [a, b, c])


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
def test_fma_of_subnormals_whose_tie_is_broken_far_below(kind):
    """Half of the smallest subnormal, but for the last bit of an exact product, added to every size of subnormal."""
    precision, lowest, _, width, _ = FORMATS[kind]
    half = lowest - precision
    ulp = Fraction(1, 2 ** (precision - 1))
    a, b, c = [], [], []
    for bit in range(precision - 1):
        for odd in (0, 1):
            for sign in (0, 1 << (width - 1)):
                a.append(encode((False, (1 + ulp) * Fraction(2) ** (half // 2)), kind) ^ sign)
                b.append(encode((False, (1 - ulp) * Fraction(2) ** (half - half // 2)), kind))
                c.append((1 << bit | odd) ^ sign)
    held(f"fma.rn.{kind}", "fma", kind, "rn", [a, b, c])


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("opcode", ["add", "sub", "mul", "fma"])
def test_halves(opcode, kind):
    rn = ".rn" if opcode == "fma" else ""
    cols = columns(kind, ARITY[opcode], 2400, 4)
    held(f"{opcode}{rn}.{kind}", opcode, kind, "rn", cols)
    if kind == "f16":
        held(f"{opcode}{rn}.ftz.f16", opcode, kind, "rn", cols, ftz=True)
        held(f"{opcode}{rn}.sat.f16", opcode, kind, "rn", cols, sat=True)
        held(f"{opcode}{rn}.ftz.sat.f16", opcode, kind, "rn", cols, ftz=True, sat=True)
    if opcode == "fma":
        held(f"fma.rn.relu.{kind}", opcode, kind, "rn", cols, relu=True)
    if opcode == "fma" and kind == "f16":
        held("fma.rn.ftz.relu.f16", opcode, kind, "rn", cols, ftz=True, relu=True)


PACKED = [
    "add", "sub", "mul", "min", "max", "min.NaN", "max.xorsign.abs", "fma.rn", "fma.rn.relu", "fma.rn.oob", "abs", "neg",
    "ex2.approx", "tanh.approx",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("stem", PACKED)
def test_packed_is_twice_one(stem, kind):
    stem += ".ftz" if stem == "ex2.approx" and kind == "bf16" else ""
    arity = 3 if stem.startswith("fma") else 1 if stem.split(".")[0] in ("abs", "neg", "ex2", "tanh") else 2
    low, high = columns(kind, arity, 400, 5), columns(kind, arity, 400, 6)
    both = [[x | y << 16 for x, y in zip(a, b, strict=True)] for a, b in zip(low, high, strict=True)]
    of_low, of_high = call(f"{stem}.{kind}", *low), call(f"{stem}.{kind}", *high)
    assert call(f"{stem}.{kind}x2", *both) == [x | y << 16 for x, y in zip(of_low, of_high, strict=True)]


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_fma_out_of_bounds(kind):
    """The NaN of all ones, in any operand, makes 0; another NaN is a NaN."""
    cols = columns(kind, 3, 600, 7)
    for i, col in enumerate(cols):
        col[i::7] = [0xFFFF] * len(col[i::7])
    expected = [0 if 0xFFFF in row else expect(OPERATIONS["fma"], kind, "rn", row) for row in zip(*cols, strict=True)]
    compare(f"fma.rn.oob.{kind}", cols, expected, kind, canonical=True)


def pick(name, x, y, nan_wins):
    """min or max of (negative, magnitude)s, a zero with its sign."""
    if x[1] is None or y[1] is None:
        if nan_wins or x[1] is y[1]:
            return False, None
        return y if x[1] is None else x

    def key(v):  # -0 is below +0
        size = Fraction(2) ** 2000 if v[1] == INF else v[1]
        return (-size, 0) if v[0] else (size, 1)

    return (min if name == "min" else max)(x, y, key=key)


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("name", ["min", "max"])
def test_min_and_max(name, kind):
    special = edges(kind)
    a, b = ([x for x in special for _ in special], special * len(special))
    more = columns(kind, 2, 600, 8)
    a, b = a + more[0], b + more[1]
    values = [(decode(x, kind), decode(y, kind)) for x, y in zip(a, b, strict=True)]
    canonical = kind != "f64"
    compare(f"{name}.{kind}", [a, b], [encode(pick(name, x, y, False), kind) for x, y in values], kind, canonical)
    if kind == "f64":
        return
    compare(f"{name}.NaN.{kind}", [a, b], [encode(pick(name, x, y, True), kind) for x, y in values], kind, canonical)

    def with_sign(x, y, nan_wins):
        _, size = pick(name, (False, x[1]), (False, y[1]), nan_wins)
        return encode((x[0] != y[0], size), kind)

    compare(f"{name}.xorsign.abs.{kind}", [a, b], [with_sign(x, y, False) for x, y in values], kind, canonical)
    compare(f"{name}.NaN.xorsign.abs.{kind}", [a, b], [with_sign(x, y, True) for x, y in values], kind, canonical)
    if kind in ("f32", "f16"):
        flat = [(flushed(x, kind), flushed(y, kind)) for x, y in values]
        compare(f"{name}.ftz.{kind}", [a, b], [encode(pick(name, x, y, False), kind) for x, y in flat], kind, canonical)


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
def test_signs(kind):
    top = 1 << (FORMATS[kind][3] - 1)
    (col,) = columns(kind, 1)
    assert call(f"abs.{kind}", col) == [x & ~top for x in col]
    assert call(f"neg.{kind}", col) == [x ^ top for x in col]
    if kind in ("f32", "f16"):
        flat = [x if x & ~top > infinity(kind) else encode(flushed(decode(x, kind), kind), kind) for x in col]
        numbers = [i for i, x in enumerate(col) if x & ~top <= infinity(kind)]
        for name, turn in (("abs", lambda x: x & ~top), ("neg", lambda x: x ^ top)):
            got = call(f"{name}.ftz.{kind}", col)
            assert [got[i] for i in numbers] == [turn(flat[i]) for i in numbers]
            assert all(got[i] & ~top > infinity(kind) for i in range(len(col)) if i not in set(numbers))


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_copysign_and_testp(kind):
    a, b = columns(kind, 2)
    top = 1 << (FORMATS[kind][3] - 1)
    assert call(f"copysign.{kind}", a, b) == [(x & top) | (y & ~top) for x, y in zip(a, b, strict=True)]
    inf, smallest = infinity(kind), 1 << (FORMATS[kind][0] - 1)
    size = [x & ~top for x in a]
    assert call(f"testp.finite.{kind}", a) == [x < inf for x in size]
    assert call(f"testp.infinite.{kind}", a) == [x == inf for x in size]
    assert call(f"testp.number.{kind}", a) == [x <= inf for x in size]
    assert call(f"testp.notanumber.{kind}", a) == [x > inf for x in size]
    assert call(f"testp.normal.{kind}", a) == [x == 0 or smallest <= x < inf for x in size]
    assert call(f"testp.subnormal.{kind}", a) == [0 < x < smallest for x in size]
