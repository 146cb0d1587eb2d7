"""Comparisons and selections: of floats over all pairs of edges, NaNs and both zeros among them."""

from fractions import Fraction

import pytest

from treadle.codegen.ptxsim.pure import find

from .pure_reference import INF, call, decode, draw, edges, flushed, integers, number, signed

N = 900
COMBINE = {"and": lambda p, q: p and q, "or": lambda p, q: p or q, "xor": lambda p, q: p != q}
ORDER = {
    "eq": lambda o: o == 0,
    "ne": lambda o: o != 0,
    "lt": lambda o: o < 0,
    "le": lambda o: o <= 0,
    "gt": lambda o: o > 0,
    "ge": lambda o: o >= 0,
}


def order(x, y):
    return (x > y) - (x < y)


def plain(value):
    """A number to compare, infinities far out, None for a NaN."""
    return None if value[1] is None else signed((value[0], Fraction(2) ** 2000 if value[1] == INF else value[1]))


def test_float(name, x, y):
    """Whether a comparison of (negative, magnitude)s holds."""
    x, y = plain(x), plain(y)
    if x is None or y is None:
        return name == "nan" or (name.endswith("u") and name != "u")
    if name in ("num", "nan"):
        return name == "num"
    return ORDER[name.removesuffix("u")](order(x, y))


test_float.__test__ = False
FLOAT_TESTS = [*ORDER, *(f"{name}u" for name in ORDER), "num", "nan"]


def operands(kind):
    special = edges(kind)
    a, b = [x for x in special for _ in special], special * len(special)
    return a + draw(kind, N, 1), b + draw(kind, N, 2)


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("name", FLOAT_TESTS)
def test_setp_of_floats(name, kind):
    a, b = operands(kind)
    values = [(decode(x, kind), decode(y, kind)) for x, y in zip(a, b, strict=True)]
    holds = [test_float(name, x, y) for x, y in values]
    assert call(f"setp.{name}.{kind}", a, b) == holds
    p, q = call(f"setp.{name}.{kind}", a, b, pair=True)
    assert (p, q) == (holds, [not h for h in holds])
    if kind in ("f32", "f16"):
        flat = [test_float(name, flushed(x, kind), flushed(y, kind)) for x, y in values]
        assert call(f"setp.{name}.ftz.{kind}", a, b) == flat
    c = [i % 3 == 0 for i in range(len(a))]
    for how, meaning in COMBINE.items():
        assert call(f"setp.{name}.{how}.{kind}", a, b, c) == [meaning(h, x) for h, x in zip(holds, c, strict=True)]
        p, q = call(f"setp.{name}.{how}.{kind}", a, b, c, pair=True)
        assert p == [meaning(h, x) for h, x in zip(holds, c, strict=True)]
        assert q == [meaning(not h, x) for h, x in zip(holds, c, strict=True)]


@pytest.mark.parametrize("kind", ["s16", "s32", "s64", "u16", "u32", "u64", "b16", "b32", "b64"])
def test_setp_of_integers(kind):
    width = int(kind[1:])
    a, b = integers(width, N, 1), integers(width, N, 2)
    b[::5] = a[::5]
    orders = [order(number(x, kind), number(y, kind)) for x, y in zip(a, b, strict=True)]
    for name, meaning in ORDER.items():
        if kind[0] == "b" and name not in ("eq", "ne"):
            assert find("setp", (name, kind)) is None
            continue
        holds = [meaning(o) for o in orders]
        assert call(f"setp.{name}.{kind}", a, b) == holds
        out = {"u32": 0xFFFFFFFF, "s32": 0xFFFFFFFF, "f32": 0x3F800000}
        for to, yes in out.items():
            assert call(f"set.{name}.{to}.{kind}", a, b) == [yes if h else 0 for h in holds]
    for name, same in {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.items():
        if kind[0] == "u":
            assert call(f"setp.{name}.{kind}", a, b) == call(f"setp.{same}.{kind}", a, b)
        else:
            assert find("setp", (name, kind)) is None


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("name", FLOAT_TESTS)
def test_packed(name, kind):
    """setp p|q is of the halves, p the lower; set writes each half, or all of an integer."""
    low, high = operands(kind), operands(kind)
    high = tuple(x[7:] + x[:7] for x in high[:1]) + high[1:]
    a, b = ([x | y << 16 for x, y in zip(p, q, strict=True)] for p, q in zip(low, high, strict=True))
    holds = [[test_float(name, decode(x, kind), decode(y, kind)) for x, y in zip(*half, strict=True)] for half in (low, high)]
    assert call(f"setp.{name}.{kind}x2", a, b) == holds
    c = [i % 3 == 0 for i in range(len(a))]
    assert call(f"setp.{name}.xor.{kind}x2", a, b, c) == [[h != x for h, x in zip(half, c, strict=True)] for half in holds]
    one = 0x3C00 if kind == "f16" else 0x3F80
    both = list(zip(*holds, strict=True))
    assert call(f"set.{name}.{kind}x2.{kind}x2", a, b) == [x * one | y * one << 16 for x, y in both]
    assert call(f"set.{name}.u32.{kind}x2", a, b) == [x * 0xFFFF | y * 0xFFFF << 16 for x, y in both]
    combined = (
        [(x and p) or 0 for (x, _), p in zip(both, c, strict=True)],
        [(y and p) or 0 for (_, y), p in zip(both, c, strict=True)],
    )
    assert call(f"set.{name}.and.u32.{kind}x2", a, b, c) == [
        x * 0xFFFF | y * 0xFFFF << 16 for x, y in zip(*combined, strict=True)
    ]


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
def test_set(kind):
    a, b = operands(kind)
    yes = {"u32": 0xFFFFFFFF, "s32": 0xFFFFFFFF, "f32": 0x3F800000, "f16": 0x3C00, "bf16": 0x3F80}
    if kind in ("f16", "bf16"):
        yes = {"u16": 0xFFFF, "s16": 0xFFFF, "u32": 0xFFFFFFFF, "s32": 0xFFFFFFFF, "bf16": 0x3F80}
    if kind == "f16":
        yes["f16"] = 0x3C00
    for name in FLOAT_TESTS:
        holds = call(f"setp.{name}.{kind}", a, b)
        for out, value in yes.items():
            assert call(f"set.{name}.{out}.{kind}", a, b) == [value if h else 0 for h in holds]
    c = [i % 3 == 0 for i in range(len(a))]
    got = call(f"set.le.or.u32.{kind}", a, b, c)
    assert got == [0xFFFFFFFF if h or x else 0 for h, x in zip(call(f"setp.le.{kind}", a, b), c, strict=True)]


@pytest.mark.parametrize("kind", ["b16", "b32", "b64", "u16", "s32", "u64", "f32", "f64"])
def test_selection(kind):
    width = int(kind[1:])
    a, b = integers(width, N, 1), integers(width, N, 2)
    c = [i % 3 == 0 for i in range(N)]
    assert call(f"selp.{kind}", a, b, c) == [x if p else y for x, y, p in zip(a, b, c, strict=True)]
    by = integers(32, N, 3)
    assert call(f"slct.{kind}.s32", a, b, by) == [x if number(z, "s32") >= 0 else y for x, y, z in zip(a, b, by, strict=True)]
    by = draw("f32", N, 4)
    numbers = [plain(decode(z, "f32")) for z in by]
    first = [z is not None and z >= 0 for z in numbers]
    assert call(f"slct.{kind}.f32", a, b, by) == [x if p else y for x, y, p in zip(a, b, first, strict=True)]
    first = [z is not None and z > -(Fraction(2) ** -126) for z in numbers]
    assert call(f"slct.ftz.{kind}.f32", a, b, by) == [x if p else y for x, y, p in zip(a, b, first, strict=True)]
