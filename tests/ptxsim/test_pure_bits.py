"""Logic, shifts and bit fields, bit by bit as the ISA's own pseudocode says them."""

import numpy as np
import pytest

from treadle.codegen.ptxsim.pure import find

from .pure_reference import call, integers, number, wrap

N = 1200
WIDTHS = ("b16", "b32", "b64")


def amounts(n, seed):
    """Shift amounts: of a shift's size, and far beyond."""
    return [x if i % 8 == 0 else x % 80 for i, x in enumerate(integers(32, n, seed))]


def held(name, columns, meaning):
    got = call(name, *columns)
    for i, row in enumerate(zip(*columns, strict=True)):
        assert got[i] == meaning(*row), (name, [hex(x) for x in row], hex(got[i]))


@pytest.mark.parametrize("kind", [*WIDTHS, "pred"])
def test_logic(kind):
    width = 1 if kind == "pred" else int(kind[1:])
    a, b = (integers(width, N, i) if width > 1 else [i >> s & 1 for i in range(8)] for s, i in enumerate((1, 2)))
    if kind == "pred":
        a, b = ([bool(i >> s & 1) for i in range(4)] for s in (0, 1))
    held(f"and.{kind}", [a, b], lambda x, y: x & y)
    held(f"or.{kind}", [a, b], lambda x, y: x | y)
    held(f"xor.{kind}", [a, b], lambda x, y: x ^ y)
    held(f"not.{kind}", [a], lambda x: x ^ (1 << width) - 1)
    if kind != "pred":
        held(f"cnot.{kind}", [a], lambda x: int(x == 0))


@pytest.mark.parametrize("width", [16, 32, 64])
def test_shifts_clamp(width):
    a, b = integers(width, N, 1), amounts(N, 2)
    held(f"shl.b{width}", [a, b], lambda x, n: wrap(x << min(n, width), f"b{width}"))
    for kind in (f"b{width}", f"u{width}", f"s{width}"):
        held(f"shr.{kind}", [a, b], lambda x, n, kind=kind: wrap(number(x, kind) >> min(n, width), kind))


@pytest.mark.parametrize("mode", ["clamp", "wrap"])
def test_funnel(mode):
    a, b, c = integers(32, N, 1), integers(32, N, 2), amounts(N, 3)

    def turn(n):
        return min(n, 32) if mode == "clamp" else n % 32

    held(f"shf.l.{mode}.b32", [a, b, c], lambda x, y, n: wrap((y << 32 | x) << turn(n) >> 32, "b32"))
    held(f"shf.r.{mode}.b32", [a, b, c], lambda x, y, n: wrap((y << 32 | x) >> turn(n), "b32"))


def lop3(a, b, c, table):
    return sum((table >> (4 * (a >> i & 1) + 2 * (b >> i & 1) + (c >> i & 1)) & 1) << i for i in range(32))


def test_lop3_of_every_table():
    a, b, c = (integers(32, 12, i) for i in range(3))
    for table in range(256):
        held("lop3.b32", [a, b, c, [table] * 12], lop3)


@pytest.mark.parametrize("name", ["or", "and"])
def test_lop3_with_a_predicate(name):
    a, b, c = (integers(32, 400, i) for i in range(3))
    q = [i % 2 == 0 for i in range(400)]
    values, found = call(f"lop3.{name}.b32", a, b, c, [0x80] * 400, q)
    assert values == [x & y & z for x, y, z in zip(a, b, c, strict=True)]
    assert 0 < sum(v == 0 for v in values) < 400
    assert found == [(v != 0 or p) if name == "or" else (v != 0 and p) for v, p in zip(values, q, strict=True)]


@pytest.mark.parametrize("kind", ["u32", "u64", "s32", "s64"])
def test_bfe(kind):
    width = int(kind[1:])

    def extract(a, b, c):
        position, length, top = b & 0xFF, c & 0xFF, width - 1
        sign = 0 if kind[0] == "u" or length == 0 else a >> min(position + length - 1, top) & 1
        return sum((a >> position + i & 1 if i < length and position + i <= top else sign) << i for i in range(width))

    held(f"bfe.{kind}", [integers(width, N, 1), amounts(N, 2), amounts(N, 3)], extract)


@pytest.mark.parametrize("width", [32, 64])
def test_bfi(width):
    def insert(a, b, c, d):
        position, length = c & 0xFF, d & 0xFF
        for i in range(length):
            if position + i < width:
                b = b & ~(1 << position + i) | (a >> i & 1) << position + i
        return b

    columns = [integers(width, N, 1), integers(width, N, 2), amounts(N, 3), amounts(N, 4)]
    held(f"bfi.b{width}", columns, insert)


@pytest.mark.parametrize("width", [32, 64])
def test_counts(width):
    a = integers(width, N, 1) + [1 << i for i in range(width)] + [(1 << i) - 1 for i in range(width + 1)]
    held(f"popc.b{width}", [a], lambda x: bin(x).count("1"))
    held(f"clz.b{width}", [a], lambda x: width - x.bit_length())
    held(f"brev.b{width}", [a], lambda x: int(f"{x:0{width}b}"[::-1], 2))
    for kind in (f"u{width}", f"s{width}"):

        def top(x, kind=kind):
            return (~number(x, kind) if number(x, kind) < 0 else x).bit_length() - 1

        held(f"bfind.{kind}", [a], lambda x, top=top: wrap(top(x), "u32"))
        held(f"bfind.shiftamt.{kind}", [a], lambda x, top=top: 0xFFFFFFFF if top(x) < 0 else width - 1 - top(x))


def test_fns():
    def locate(mask, base, offset):
        offset = number(offset, "s32")
        if offset == 0:
            return base if mask >> base & 1 else 0xFFFFFFFF
        there = [i for i in range(32) if mask >> i & 1]
        there = [i for i in there if i >= base] if offset > 0 else [i for i in reversed(there) if i <= base]
        return there[abs(offset) - 1] if abs(offset) <= len(there) else 0xFFFFFFFF

    mask, base = integers(32, N, 1), [x % 32 for x in integers(32, N, 2)]
    offset = [wrap(x % 13 - 6, "s32") for x in integers(32, N, 3)]
    held("fns.b32", [mask, base, offset], locate)


@pytest.mark.parametrize("mode", ["clamp", "wrap"])
def test_szext_and_bmsk(mode):
    a, b = integers(32, N, 1), amounts(N, 2)

    def extend(kind):
        def szext(x, n):
            low, large = n & 31, n >= 32 and mode == "clamp"
            mask = 0 if large else wrap(-1 << low, "b32")
            sign = kind == "s32" and low != 0 and not large and x >> low - 1 & 1
            return x & ~mask | (mask if sign else 0)

        return szext

    held(f"szext.{mode}.u32", [a, b], extend("u32"))
    held(f"szext.{mode}.s32", [a, b], extend("s32"))

    def mask(x, n):
        first, length = (x, n) if mode == "clamp" else (x % 32, n % 32)
        return sum(1 << i for i in range(32) if first <= i < first + length)

    held(f"bmsk.{mode}.b32", [amounts(N, 3), b], mask)


def chosen(mode, control, place):
    """Which of eight bytes a mode of prmt puts where."""
    return {
        "f4e": control + place,
        "b4e": (control - place) % 8,
        "rc8": control,
        "ecl": max(place, control),
        "ecr": min(place, control),
        "rc16": 2 * (control % 2) + place % 2,
    }[mode]


def test_prmt():
    a, b, c = (integers(32, N, i) for i in range(3))

    def byte(x, y, i):
        return (y << 32 | x) >> 8 * i & 0xFF

    def permute(x, y, z):
        out = 0
        for place in range(4):
            nibble = z >> 4 * place & 15
            value = byte(x, y, nibble & 7)
            out |= (0xFF * (value >> 7) if nibble & 8 else value) << 8 * place
        return out

    held("prmt.b32", [a, b, c], permute)
    for mode in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16"):
        held(
            f"prmt.b32.{mode}",
            [a, b, c],
            lambda x, y, z, m=mode: sum(byte(x, y, chosen(m, z & 3, p)) << 8 * p for p in range(4)),
        )


def test_prmt_by_a_constant():
    """The selectors that compilers write, and some that ask for signs, as 0-d operands."""
    a, b = (np.array(integers(32, 200, i), np.uint32) for i in (1, 2))
    permute = find("prmt", ("b32",)).fn
    for control in (0x5410, 0x7632, 0x3210, 0x0123, 0x7777, 0x4321, 0xBA98, 0xB210, 0x3A10, 0x3290, 0x3218, 0x12345410):
        got = permute(a, b, np.array(control, np.uint32))
        assert got.dtype == np.uint32
        assert got.tolist() == call("prmt.b32", a, b, [control] * 200)
