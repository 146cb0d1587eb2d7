"""Random bits from a counter, and rounding by them.

Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011): ten rounds of two multiplications turn a
counter of four words and a key of two into four random words. No state is kept, so any element's bits can be had on their own,
in any order, on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from treadle.ir.expr import Expr

ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)

#: Elements that share a block of 128 bits: 16 bits for each, of which rounding takes the upper 13.
SHARE = 8
_FRACTION = 13
#: float16: the bits of its least normal number as a float32, the exponent's steps to its spacing, the largest number.
_LEAST, _TO_SPACING, _LARGEST = 0x38800000, 10 << 23, 65504.0


def words(index: Expr, step: Expr, seed: Expr, hold: Callable[[Expr], Expr]) -> list[Expr]:
    """Philox's four words for the counter (index, step) and the key `seed`, all int64, low words first.

    `hold` computes an expression once: written out, the rounds would double in size ten times.
    """
    c = [*_halves(index, hold), *_halves(step, hold)]
    k = _halves(seed, hold)
    for number in range(ROUNDS):
        products = [hold(c[2 * i].astype("uint64") * _u64(_MULTIPLIERS[i])) for i in (0, 1)]
        keys = [k[i] + _u32(_KEY_STEPS[i] * number & 0xFFFFFFFF) for i in (0, 1)]
        (high0, low0), (high1, low1) = (((p >> _u64(32)).astype("uint32"), p.astype("uint32")) for p in products)
        c = [hold(high1 ^ c[1] ^ keys[0]), hold(low1), hold(high0 ^ c[3] ^ keys[1]), hold(low0)]
    return c


def share(of: Sequence[Expr], place: int | Expr) -> Expr:
    """The 16 bits of the element at a place of its block: the lower half of a word first."""
    if isinstance(place, int):
        return (of[place // 2] >> _u32(16 * (place % 2))) & _u32(0xFFFF)
    word = of[-1]
    for i in reversed(range(len(of) - 1)):
        word = tirx.Select(place < 2 * (i + 1), of[i], word)
    return (word >> ((place.astype("uint32") & _u32(1)) * _u32(16))) & _u32(0xFFFF)


def half(value: Expr, bits: Expr) -> Expr:
    """A float32 rounded to one of the two float16 around it, to the upper with the probability of how near it is.

    In units of float16's spacing there (2^-24 below 2^-14), |value| gets a random fraction of 13 bits added and is cut off:
    exact in float32, and without bias but for values below 2^-14 with more digits than that. What is finite stays so: beyond
    65504 it is that.
    """
    magnitude = tirx.abs(value)
    raw = tirx.reinterpret("uint32", magnitude)
    exponent = tirx.max(raw & _u32(0x7F800000), _u32(_LEAST))
    spacing = tirx.reinterpret("float32", exponent - _u32(_TO_SPACING))
    inverse = tirx.reinterpret("float32", _u32(0x7F000000 + _TO_SPACING) - exponent)
    fraction = (bits >> _u32(16 - _FRACTION)).astype("float32") * _f32(2.0**-_FRACTION)
    rounded = tirx.min(tirx.floor(magnitude * inverse + fraction) * spacing, _f32(_LARGEST))
    signed = tirx.Select(value < _f32(0.0), -rounded, rounded)
    return tirx.Select(raw < _u32(0x7F800000), signed, value).astype("float16")


def _halves(value: Expr, hold: Callable[[Expr], Expr]) -> list[Expr]:
    held = hold(value)
    return [held.astype("uint32"), (held >> tirx.const(32, "int64")).astype("uint32")]


def _u32(value: int) -> Expr:
    return tirx.const(value, "uint32")


def _u64(value: int) -> Expr:
    return tirx.const(value, "uint64")


def _f32(value: float) -> Expr:
    return tirx.const(value, "float32")
