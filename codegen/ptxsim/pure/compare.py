"""Comparison and selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.codegen.ptxsim.pure.finish import flush
from treadle.codegen.ptxsim.pure.packed import join, split
from treadle.codegen.ptxsim.pure.rounding import from_bf16
from treadle.codegen.ptxsim.pure.table import Array, Mods, NotThis, Pure, dtype, opcode

_FLOATS = ("f32", "f64", "f16", "bf16", "f16x2", "bf16x2")
_SIGNED = ("s16", "s32", "s64")
_UNSIGNED = ("u16", "u32", "u64")
_BITS = ("b16", "b32", "b64")
Test = Callable[[Array, Array], Array]

_EQUAL: dict[str, Test] = {"eq": np.equal, "ne": np.not_equal}
_ORDER: dict[str, Test] = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
_UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
# numpy's comparisons are false of a NaN, and so are PTX's; only not_equal is true. With u they are true.
_FLOAT: dict[str, Test] = {
    "eq": np.equal,
    "ne": lambda a, b: (a < b) | (a > b),
    **_ORDER,
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: (a == a) & (b == b),
    "nan": lambda a, b: (a != a) | (b != b),
}
_COMPARISONS = (*_FLOAT, *_UNSIGNED_NAMES)
_COMBINE = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def _test(name: str, kind: str, ftz: bool) -> Test:
    """A comparison of one type; those of packed ones compare a half."""
    one = kind.removesuffix("x2")
    if ftz and one not in ("f32", "f16"):
        raise NotThis
    if one.endswith("f16") or one[0] == "f":
        table = _FLOAT
    else:
        name = _UNSIGNED_NAMES.get(name, name) if kind[0] == "u" else name
        table = _EQUAL if kind[0] == "b" else {**_EQUAL, **_ORDER}
    if name not in table:
        raise NotThis
    test = table[name]
    if one == "bf16":
        return lambda a, b: test(from_bf16(a), from_bf16(b))
    return (lambda a, b: test(flush(a, one), flush(b, one))) if ftz else test


def _form(mods: Mods) -> tuple[str, Any, bool]:
    """The comparison, how it is combined with a predicate, whether subnormals are flushed."""
    name, combine, ftz = mods.need(*_COMPARISONS), mods.one(*_COMBINE), mods.flag("ftz")
    return name, None if combine is None else _COMBINE[combine], ftz


@opcode("setp")
def _setp(mods: Mods) -> Pure:
    """p = (a ? b) with c, and of `p|q` q = !(a ? b) with c; of packed operands p is for the lower halves, q the upper."""
    name, combine, ftz = _form(mods)
    kind = mods.type(*_FLOATS, *_SIGNED, *_UNSIGNED, *_BITS)
    mods.end(pair=True)
    test = _test(name, kind, ftz)
    args = (kind, kind) if combine is None else (kind, kind, "pred")
    if kind.endswith("x2"):
        one = kind.removesuffix("x2")

        def both(a: Array, b: Array) -> tuple[Array, Array]:
            found = test(split(a, one), split(b, one))
            return found[..., 0], found[..., 1]

        pair: Callable[..., tuple[Array, Array]] = both
    elif not mods.pair:
        if combine is None:
            return Pure(("pred",), args, test)
        return Pure(("pred",), args, lambda a, b, c: combine(test(a, b), c))
    else:

        def opposite(a: Array, b: Array) -> tuple[Array, Array]:
            found = test(a, b)
            return found, ~found

        pair = opposite
    if combine is None:
        return Pure(("pred", "pred"), args, pair)

    def combined(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
        p, q = pair(a, b)
        return combine(p, c), combine(q, c)

    return Pure(("pred", "pred"), args, combined)


_TRUE: dict[str, Any] = {"f32": np.float32(1), "f16": np.float16(1), "f16x2": np.uint32(0x3C00), "bf16x2": np.uint32(0x3F80)}


@opcode("set")
def _set(mods: Mods) -> Pure:
    """1.0 or 0.0 in a float, all ones or 0 in an integer; of packed operands in each half."""
    name, combine, ftz = _form(mods)
    out = mods.type("u16", "s16", "u32", "s32", "f32", "f16", "bf16", "f16x2", "bf16x2")
    kind = mods.type(*_FLOATS, *_SIGNED, *_UNSIGNED, *_BITS)
    mods.end()
    refused = (
        (out in ("u16", "s16") and kind not in ("f16", "bf16"))
        or (kind.endswith("x2") and out not in ("u32", "s32", kind))
        or (out.endswith("x2") and kind != out)
        or (out == "f32" and kind in ("f16", "bf16"))
        or (out == "f16" and kind == "bf16")
        or (out == "bf16" and ftz)
    )
    if refused:
        raise NotThis
    test = _test(name, kind, ftz)
    result = _truth(out, packed=kind.endswith("x2"))
    args = (kind, kind) if combine is None else (kind, kind, "pred")
    one = kind.removesuffix("x2")

    def compare(a: Array, b: Array, *c: Array) -> Array:
        if one != kind:
            a, b, c = split(a, one), split(b, one), tuple(np.asarray(x)[..., None] for x in c)
        found = test(a, b)
        return result(found if combine is None else combine(found, *c))

    return Pure((out,), args, compare)


def _truth(out: str, *, packed: bool) -> Callable[[Array], Array]:
    if packed:
        high = np.uint16(_TRUE.get(out, 0xFFFF))
        to = dtype(out)
        return lambda found: join(np.where(found, high, np.uint16(0))).view(to)
    if out == "bf16":
        one_bf16 = np.uint16(0x3F80)
        return lambda found: np.where(found, one_bf16, np.uint16(0)).view(dtype("bf16"))
    yes = _TRUE[out] if out in _TRUE else np.array(-1).astype(dtype(out))[()]
    return lambda found: np.where(found, yes, yes.dtype.type(0))


@opcode("selp")
def _selp(mods: Mods) -> Pure:
    kind = mods.type(*_BITS, *_UNSIGNED, *_SIGNED, "f32", "f64")
    mods.end()
    return Pure((kind,), (kind, kind, "pred"), lambda a, b, c: np.where(c, a, b))


@opcode("slct")
def _slct(mods: Mods) -> Pure:
    """a where c >= 0, else b; a NaN chooses b, -0 chooses a."""
    ftz = mods.flag("ftz")
    kind = mods.type(*_BITS, *_UNSIGNED, *_SIGNED, "f32", "f64")
    by = mods.type("f32") if ftz else mods.type("s32", "f32")
    mods.end()
    # Flushing takes a small negative c to -0, which is not below 0.
    fn = (lambda a, b, c: np.where(flush(c) >= 0, a, b)) if ftz else (lambda a, b, c: np.where(c >= 0, a, b))
    return Pure((kind,), (kind, kind, by), fn)


@opcode("mov")
def _mov(mods: Mods) -> Pure:
    kind = mods.type("pred", *_BITS, *_UNSIGNED, *_SIGNED, "f32", "f64")
    mods.end()
    return Pure((kind,), (kind,), lambda a: a)
