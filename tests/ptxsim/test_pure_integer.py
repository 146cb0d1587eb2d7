"""Integer opcodes against Python's integers, which have no width: the result is cut to one at the end."""

import pytest

from .pure_reference import call, integers, number, wrap

SIGNED, UNSIGNED = ("s16", "s32", "s64"), ("u16", "u32", "u64")
ALL = SIGNED + UNSIGNED
N = 1500


def bits(kind):
    return int(kind[1:])


def held(name, kinds, meaning, out, n=N, seed=1, fix=None):
    """Operands of the kinds drawn; `meaning` takes and gives plain integers."""
    cols = [integers(bits(k), n, seed * 10 + i) for i, k in enumerate(kinds)]
    if fix:
        cols = fix(cols)
    got = call(name, *cols)
    for i, row in enumerate(zip(*cols, strict=True)):
        values = [number(x, k) for x, k in zip(row, kinds, strict=True)]
        assert number(got[i], out) == number(wrap(meaning(*values), out), out), (name, values)


def clamped(value, kind):
    low, high = (-(1 << bits(kind) - 1), (1 << bits(kind) - 1) - 1) if kind[0] == "s" else (0, (1 << bits(kind)) - 1)
    return min(max(value, low), high)


def wide(kind):
    return f"{kind[0]}{2 * bits(kind)}"


def divided(a, b):
    """Towards zero."""
    q = abs(a) // abs(b)
    return -q if (a < 0) != (b < 0) else q


@pytest.mark.parametrize("kind", ALL)
def test_sums_and_products(kind):
    held(f"add.{kind}", [kind] * 2, lambda a, b: a + b, kind)
    held(f"sub.{kind}", [kind] * 2, lambda a, b: a - b, kind)
    held(f"mul.lo.{kind}", [kind] * 2, lambda a, b: a * b, kind)
    held(f"mul.hi.{kind}", [kind] * 2, lambda a, b: a * b >> bits(kind), kind)
    held(f"mad.lo.{kind}", [kind] * 3, lambda a, b, c: a * b + c, kind)
    held(f"mad.hi.{kind}", [kind] * 3, lambda a, b, c: (a * b >> bits(kind)) + c, kind)
    held(f"sad.{kind}", [kind] * 3, lambda a, b, c: abs(a - b) + c, kind)
    held(f"min.{kind}", [kind] * 2, min, kind)
    held(f"max.{kind}", [kind] * 2, max, kind)
    if bits(kind) < 64:
        held(f"mul.wide.{kind}", [kind] * 2, lambda a, b: a * b, wide(kind))
        held(f"mad.wide.{kind}", [kind, kind, wide(kind)], lambda a, b, c: a * b + c, wide(kind))


def test_saturation():
    held("add.sat.s32", ["s32"] * 2, lambda a, b: clamped(a + b, "s32"), "s32")
    held("sub.sat.s32", ["s32"] * 2, lambda a, b: clamped(a - b, "s32"), "s32")
    held("mad.hi.sat.s32", ["s32"] * 3, lambda a, b, c: clamped((a * b >> 32) + c, "s32"), "s32")
    held("min.relu.s32", ["s32"] * 2, lambda a, b: max(min(a, b), 0), "s32")
    held("max.relu.s32", ["s32"] * 2, lambda a, b: max(a, b, 0), "s32")


@pytest.mark.parametrize("kind", ["u32", "s32"])
def test_24_bits(kind):
    def cut(x):
        return number(x & 0xFFFFFF, kind[0] + "24")

    held(f"mul24.lo.{kind}", [kind] * 2, lambda a, b: cut(a) * cut(b), kind)
    held(f"mul24.hi.{kind}", [kind] * 2, lambda a, b: cut(a) * cut(b) >> 16, kind)
    held(f"mad24.lo.{kind}", [kind] * 3, lambda a, b, c: cut(a) * cut(b) + c, kind)
    held(f"mad24.hi.{kind}", [kind] * 3, lambda a, b, c: (cut(a) * cut(b) >> 16) + c, kind)
    if kind == "s32":

        def saturated(a, b, c):
            return clamped(number(wrap(cut(a) * cut(b) >> 16, kind), kind) + c, kind)

        held("mad24.hi.sat.s32", [kind] * 3, saturated, kind)


@pytest.mark.parametrize("kind", ALL)
def test_division(kind):
    """By zero all ones and the dividend, which the ISA leaves open: but no exception, and the others are right."""
    held(f"div.{kind}", [kind] * 2, lambda a, b: divided(a, b) if b else -1, kind)
    held(f"rem.{kind}", [kind] * 2, lambda a, b: a - b * divided(a, b) if b else a, kind)

    def no_zero(cols):
        return [cols[0], [b or 1 for b in cols[1]]]

    held(f"div.{kind}", [kind] * 2, divided, kind, seed=2, fix=no_zero)
    held(f"rem.{kind}", [kind] * 2, lambda a, b: a - b * divided(a, b), kind, seed=2, fix=no_zero)


@pytest.mark.parametrize("kind", ALL)
def test_division_beside_multiples(kind):
    """Dividends at and next to multiples, where a rounded quotient would be one too large."""

    def beside(cols):
        divisors = [b or 3 for b in cols[1]]
        dividends = [
            wrap(number(a, kind) // 7 * number(b, kind) + i % 3 - 1, kind)
            for i, (a, b) in enumerate(zip(cols[0], divisors, strict=True))
        ]
        return [dividends, divisors]

    held(f"div.{kind}", [kind] * 2, divided, kind, seed=3, fix=beside)


@pytest.mark.parametrize("kind", SIGNED)
def test_signs(kind):
    held(f"abs.{kind}", [kind], abs, kind)
    held(f"neg.{kind}", [kind], lambda a: -a, kind)


def lanes(x, kind):
    """The two 16-bit numbers of a register, the lower first."""
    return [number(x >> s & 0xFFFF, kind) for s in (0, 16)]


@pytest.mark.parametrize("kind", ["u16", "s16"])
def test_packed(kind):
    def both(fn):
        return lambda a, b: sum(
            wrap(fn(x, y), kind) << 16 * i for i, (x, y) in enumerate(zip(lanes(a, kind), lanes(b, kind), strict=True))
        )

    held(f"add.{kind}x2", ["u32"] * 2, both(lambda x, y: x + y), "u32")
    held(f"min.{kind}x2", ["u32"] * 2, both(min), "u32")
    held(f"max.{kind}x2", ["u32"] * 2, both(max), "u32")
    if kind == "s16":
        held("min.relu.s16x2", ["u32"] * 2, both(lambda x, y: max(min(x, y), 0)), "u32")
        held("max.relu.s16x2", ["u32"] * 2, both(lambda x, y: max(x, y, 0)), "u32")


def pieces(x, kind, width):
    return [number((x & 0xFFFFFFFF) >> s & (1 << width) - 1, f"{kind[0]}{width}") for s in range(0, 32, width)]


@pytest.mark.parametrize("b", ["u32", "s32"])
@pytest.mark.parametrize("a", ["u32", "s32"])
def test_dot_products(a, b):
    out = "u32" if a == b == "u32" else "s32"

    def dot(x, y):
        return sum(p * q for p, q in zip(x, y, strict=True))

    held(f"dp4a.{a}.{b}", [a, b, out], lambda x, y, c: dot(pieces(x, a, 8), pieces(y, b, 8)) + c, out)
    held(f"dp2a.lo.{a}.{b}", [a, b, out], lambda x, y, c: dot(pieces(x, a, 16), pieces(y, b, 8)[:2]) + c, out)
    held(f"dp2a.hi.{a}.{b}", [a, b, out], lambda x, y, c: dot(pieces(x, a, 16), pieces(y, b, 8)[2:]) + c, out)


def words(x, width, count):
    return [x >> width * i & (1 << width) - 1 for i in range(count)]


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_carries_make_long_sums(kind):
    """Three words added and subtracted by the chain are the long number's."""
    width, n = bits(kind), 600
    a, b = ([integers(width, n, 10 * i + j) for j in range(3)] for i in (1, 2))
    for long, names in (
        (lambda x, y: x + y, ("add.cc", "addc.cc", "addc")),
        (lambda x, y: x - y, ("sub.cc", "subc.cc", "subc")),
    ):
        low, carry = call(f"{names[0]}.{kind}", a[0], b[0])
        middle, carry = call(f"{names[1]}.{kind}", a[1], b[1], carry)
        high = call(f"{names[2]}.{kind}", a[2], b[2], carry)
        for i in range(n):
            x, y = (sum(part[i] << width * j for j, part in enumerate(number_)) for number_ in (a, b))
            assert [low[i], middle[i], high[i]] == words(long(x, y), width, 3)


@pytest.mark.parametrize("kind", ["u32", "u64"])
def test_carries_make_long_products(kind):
    """Two words by one, added to a third number: mad.lo.cc, madc.hi.cc, and so on, as compilers chain them."""
    width, n = bits(kind), 800
    a0, a1, b, c0, c1, c2 = (integers(width, n, i) for i in range(6))
    r0, carry = call(f"mad.lo.cc.{kind}", a0, b, c0)
    r1, carry = call(f"madc.hi.cc.{kind}", a0, b, c1, carry)
    r2, carry = call(f"addc.cc.{kind}", c2, [0] * n, carry)
    over = call(f"addc.{kind}", [0] * n, [0] * n, carry)
    s1, carry = call(f"mad.lo.cc.{kind}", a1, b, r1)
    s2, carry = call(f"madc.hi.cc.{kind}", a1, b, r2, carry)
    s3 = call(f"madc.lo.{kind}", over, [1] * n, [0] * n, carry)
    for i in range(n):
        long = (a0[i] + (a1[i] << width)) * b[i] + c0[i] + (c1[i] << width) + (c2[i] << 2 * width)
        assert [r0[i], s1[i], s2[i], s3[i]] == words(long, width, 4)


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("part", ["lo", "hi"])
def test_multiply_add_with_carry(part, kind):
    width, n = bits(kind), 800
    a, b, c = (integers(width, n, i) for i in range(3))
    carry_in = [i % 2 == 1 for i in range(n)]
    plain, carry_out = call(f"madc.{part}.cc.{kind}", a, b, c, carry_in)
    assert call(f"madc.{part}.{kind}", a, b, c, carry_in) == plain
    first, first_carry = call(f"mad.{part}.cc.{kind}", a, b, c)
    for i in range(n):
        product = number(a[i], kind) * number(b[i], kind)
        word = wrap(product if part == "lo" else product >> width, kind)
        assert (plain[i], carry_out[i]) == (wrap(word + c[i] + carry_in[i], kind), word + c[i] + carry_in[i] >> width == 1)
        assert (first[i], first_carry[i]) == (wrap(word + c[i], kind), word + c[i] >> width == 1)
