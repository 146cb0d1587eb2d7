"""Logic, shifts and bit fields. numpy's shifts by the width or more give zeros, or signs: they clamp as PTX does."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from treadle.codegen.ptxsim.pure.table import Array, Mods, Pure, dtype, opcode

_U32, _U64 = np.uint32, np.uint64


@opcode("and", "or", "xor")
def _logic(mods: Mods) -> Pure:
    kind = mods.type("pred", "b16", "b32", "b64")
    mods.end()
    ufunc = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[mods.opcode]
    return Pure((kind,), (kind, kind), ufunc)


@opcode("not")
def _not(mods: Mods) -> Pure:
    kind = mods.type("pred", "b16", "b32", "b64")
    mods.end()
    return Pure((kind,), (kind,), np.invert)


@opcode("cnot")
def _cnot(mods: Mods) -> Pure:
    kind = mods.type("b16", "b32", "b64")
    mods.end()
    return Pure((kind,), (kind,), lambda a: (a == 0).astype(dtype(kind)))


@opcode("shl", "shr")
def _shift(mods: Mods) -> Pure:
    """The amount is a u32, whatever the type; a 32-bit s32 amount is the same bits, and stays in the ufunc's own loop."""
    left = mods.opcode == "shl"
    kind = mods.type(*("b16", "b32", "b64") if left else ("b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64"))
    mods.end()
    ufunc = np.left_shift if left else np.right_shift
    if kind.endswith("32"):
        return Pure((kind,), (kind, kind), ufunc)
    if kind.endswith("64"):
        return Pure((kind,), (kind, "u32"), ufunc)
    narrow = dtype(kind)
    return Pure((kind,), (kind, "u32"), lambda a, b: ufunc(a, b).astype(narrow))


@opcode("shf")
def _funnel(mods: Mods) -> Pure:
    """Of the 64 bits b:a shifted, l keeps the upper word and r the lower."""
    left = mods.need("l", "r") == "l"
    clamp = mods.need("clamp", "wrap") == "clamp"
    mods.type("b32")
    mods.end()

    def funnel(a: Array, b: Array, c: Array) -> Array:
        n = np.minimum(c, _U32(32)) if clamp else c & _U32(31)
        both = np.left_shift(b, _U64(32), dtype=_U64) | a
        return (((both << n) >> _U64(32)) if left else (both >> n)).astype(_U32)

    return Pure(("b32",), ("b32", "b32", "u32"), funnel)


# The sixteen functions of (b, c), by their truth table: bit 2 * b + c.
_OF_TWO: tuple[Callable[[Array, Array], Array], ...] = (
    lambda b, c: _U32(0),
    lambda b, c: ~(b | c),
    lambda b, c: ~b & c,
    lambda b, c: ~b,
    lambda b, c: b & ~c,
    lambda b, c: ~c,
    lambda b, c: b ^ c,
    lambda b, c: ~(b & c),
    lambda b, c: b & c,
    lambda b, c: ~(b ^ c),
    lambda b, c: c,
    lambda b, c: ~b | c,
    lambda b, c: b,
    lambda b, c: b | ~c,
    lambda b, c: b | c,
    lambda b, c: _U32(0xFFFFFFFF),
)


@lru_cache(maxsize=256)
def _lut(table: int) -> Callable[[Array, Array, Array], Array]:
    """A function of three by its truth table, bit 4 * a + 2 * b + c: one of (b, c) where a is set, another where not."""
    clear, set_ = table & 15, table >> 4
    unset_fn, set_fn = _OF_TWO[clear], _OF_TWO[set_]
    if clear == set_:
        return lambda a, b, c: a & _U32(0) | unset_fn(b, c)  # of a's shape, though not of its value
    if clear == 0:
        return lambda a, b, c: a & set_fn(b, c)
    if set_ == 15:
        return lambda a, b, c: a | unset_fn(b, c)
    if clear ^ set_ == 15:
        return lambda a, b, c: a ^ unset_fn(b, c)
    return lambda a, b, c: (a & set_fn(b, c)) | (~a & unset_fn(b, c))


@opcode("lop3")
def _lop3(mods: Mods) -> Pure:
    """The truth table is the last operand. `lop3.or d|p, a, b, c, table, q` also gives p = (d != 0) or q."""
    join = mods.one("or", "and")
    mods.type("b32")
    mods.end(pair=join is not None)

    def value(a: Array, b: Array, c: Array, table: Array) -> Array:
        return _lut(int(np.ravel(table)[0]) & 0xFF)(a, b, c)

    if join is None:
        return Pure(("b32",), ("b32", "b32", "b32", "u32"), value)
    combine = np.logical_or if join == "or" else np.logical_and

    def with_predicate(a: Array, b: Array, c: Array, table: Array, q: Array) -> tuple[Array, Array]:
        d = value(a, b, c, table)
        return d, combine(d != 0, q)

    return Pure(("b32", "pred"), ("b32", "b32", "b32", "u32", "pred"), with_predicate)


def _low_mask(kind: str) -> Callable[[Array], Array]:
    """The lowest n bits set; all of them from the width on."""
    ones = dtype(kind).type(~dtype(kind).type(0))
    return lambda n: ~(ones << n)


@opcode("bfe")
def _bfe(mods: Mods) -> Pure:
    """A field from bit b of c bits (of both the low byte counts), extended by its top bit where signed.

    A signed field that reaches over the top takes a's own sign, which is what the arithmetic shift brings in.
    """
    kind = mods.type("u32", "u64", "s32", "s64")
    mods.end()
    unsigned, width = "u" + kind[1:], int(kind[1:])
    mask, byte = _low_mask(unsigned), _U32(0xFF)
    if kind == unsigned:
        return Pure((kind,), (kind, "u32", "u32"), lambda a, b, c: (a >> (b & byte)) & mask(c & byte))
    signed = dtype(kind)

    def extract(a: Array, b: Array, c: Array) -> Array:
        length = np.minimum(c & byte, _U32(width))
        spare = (_U32(width) - length).astype(signed)  # a shift by the width gives what a field of no bits is not
        field = a >> (b & byte).astype(signed)
        return np.where(length == 0, signed.type(0), (field << spare) >> spare)

    return Pure((kind,), (kind, "u32", "u32"), extract)


@opcode("bfi")
def _bfi(mods: Mods) -> Pure:
    """b with its field from bit c of d bits replaced by a's lowest."""
    kind = mods.type("b32", "b64")
    mods.end()
    low, byte = _low_mask(kind), _U32(0xFF)

    def insert(a: Array, b: Array, c: Array, d: Array) -> Array:
        position = c & byte
        mask = low(d & byte) << position
        return (b & ~mask) | ((a << position) & mask)

    return Pure((kind,), (kind, kind, "u32", "u32"), insert)


def top_bit(x: Array) -> Array:
    """One more than the number of the highest set bit, 0 for 0."""
    # Without the bit below the highest, rounding to float64 cannot carry into a new one.
    return np.frexp((x & ~(x >> x.dtype.type(1))).astype(np.float64))[1]


@opcode("bfind")
def _bfind(mods: Mods) -> Pure:
    """The highest bit that is not the sign, or how far it is from the top; all ones where there is none."""
    distance = mods.flag("shiftamt")
    kind = mods.type("u32", "u64", "s32", "s64")
    mods.end()
    unsigned, width = dtype("u" + kind[1:]), int(kind[1:])

    def locate(a: Array) -> Array:
        number = top_bit((a ^ (a >> a.dtype.type(width - 1))).view(unsigned) if kind[0] == "s" else a) - 1
        return (np.where(number < 0, -1, width - 1 - number) if distance else number).astype(_U32)

    return Pure(("u32",), (kind,), locate)


@opcode("clz")
def _clz(mods: Mods) -> Pure:
    kind = mods.type("b32", "b64")
    mods.end()
    width = int(kind[1:])
    return Pure(("u32",), (kind,), lambda a: (width - top_bit(a)).astype(_U32))


@opcode("popc")
def _popc(mods: Mods) -> Pure:
    kind = mods.type("b32", "b64")
    mods.end()
    return Pure(("u32",), (kind,), lambda a: np.bitwise_count(a).astype(_U32))


_REVERSED = np.array([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], np.uint8)


@opcode("brev")
def _brev(mods: Mods) -> Pure:
    kind = mods.type("b32", "b64")
    mods.end()
    whole = dtype(kind)

    def reverse(a: Array) -> Array:
        within = _REVERSED[np.ascontiguousarray(a).view(np.uint8)].view(whole)
        return within.byteswap().reshape(np.shape(a))

    return Pure((kind,), (kind,), reverse)


@opcode("fns")
def _fns(mods: Mods) -> Pure:
    """The offset-th set bit from bit `base` on, that one counted; backwards for a negative offset; all ones where none is."""
    mods.type("b32")
    mods.end()

    def locate(mask: Array, base: Array, offset: Array) -> Array:
        mask, base, offset = np.broadcast_arrays(mask, base, offset)
        found = np.full(mask.shape, 0xFFFFFFFF, _U32)
        for forward in (True, False):
            seen = np.zeros(mask.shape, np.int64)
            for i in range(32) if forward else range(31, -1, -1):
                counted = ((mask >> _U32(i)) & _U32(1) != 0) & ((base <= i) if forward else (base >= i))
                seen += counted
                wanted = (offset > 0) if forward else (offset < 0)
                found = np.where(counted & wanted & (seen == np.abs(offset.astype(np.int64))), _U32(i), found)
        here = (offset == 0) & (base < 32) & ((mask >> base) & _U32(1) != 0)
        return np.where(here, base, found)

    return Pure(("b32",), ("b32", "b32", "s32"), locate)


@opcode("szext")
def _szext(mods: Mods) -> Pure:
    """The lowest b bits, extended by their sign where signed; none: 0; 32 or more: all (clamp), or b modulo 32 (wrap)."""
    clamp = mods.need("clamp", "wrap") == "clamp"
    kind = mods.type("u32", "s32")
    mods.end()
    whole = dtype(kind)

    def extend(a: Array, b: Array) -> Array:
        n = np.minimum(b, _U32(32)) if clamp else b & _U32(31)
        spare = (_U32(32) - n).astype(whole)
        return np.where(n == 0, whole.type(0), (a << spare) >> spare)

    return Pure((kind,), (kind, "u32"), extend)


@opcode("bmsk")
def _bmsk(mods: Mods) -> Pure:
    """b bits set from bit a on; 32 and more: all that there are (clamp), or modulo 32 (wrap)."""
    clamp = mods.need("clamp", "wrap") == "clamp"
    mods.type("b32")
    mods.end()
    low = _low_mask("u32")
    if clamp:
        return Pure(("b32",), ("b32", "b32"), lambda a, b: low(b) << a)
    return Pure(("b32",), ("b32", "b32"), lambda a, b: low(b & _U32(31)) << (a & _U32(31)))


_SELECTORS = {  # by the mode and the two bits of c: which byte of b:a goes to each place, the lowest first
    "f4e": [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]],
    "b4e": [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]],
    "rc8": [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]],
    "ecl": [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]],
    "ecr": [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]],
    "rc16": [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]],
}


@opcode("prmt")
def _prmt(mods: Mods) -> Pure:
    """Four bytes of the eight of b:a. Without a mode each nibble of c picks one, and its top bit asks for the sign alone."""
    mode = mods.one(*_SELECTORS)
    mods.type("b32")
    mods.end()
    chosen = None if mode is None else np.array(_SELECTORS[mode], _U32)
    byte = _U64(0xFF)

    def one_by_one(a: Array, b: Array, c: Array) -> Array:
        both = np.left_shift(b, _U64(32), dtype=_U64) | a
        out = _U32(0)
        for place in range(4):
            if chosen is not None:
                picked = (both >> (chosen[c & _U32(3), place] << _U32(3))) & byte
            else:
                nibble = c >> _U32(4 * place)
                picked = (both >> ((nibble & _U32(7)) << _U32(3))) & byte
                sign = (picked >> _U64(7)) * byte
                picked = np.where(nibble & _U32(8), sign, picked)
            out = out | (picked.astype(_U32) << _U32(8 * place))
        return out

    def permute(a: Array, b: Array, c: Array) -> Array:
        """With a constant that asks for no signs, as compilers write it, the same bytes of all."""
        if np.ndim(c) or np.ndim(a) != 1 or np.ndim(b) != 1 or (mode is None and c & _U32(0x8888)):
            return one_by_one(a, b, c)
        places = [int(c) >> 4 * place & 7 for place in range(4)] if chosen is None else chosen[c & _U32(3)]
        return np.ascontiguousarray(np.stack((a, b), axis=1).view(np.uint8)[:, places]).view(_U32)[:, 0]

    return Pure(("b32",), ("b32", "b32", "b32"), permute)
