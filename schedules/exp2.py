"""2^t by additions and multiplications, for vector units, and for GPUs whose own unit for it is the bottleneck.

t = n + r, n = round(t), |r| <= 1/2; a polynomial in r, then n added to the exponent. The polynomials are minimax for the
relative error (linear programming over 2000 Chebyshev nodes) with 2^0 = 1 to the bit, so that a step of size zero decays
nothing. Measured over a million r (tests/scan/test_selective_scan.py), in units of the last place of the smaller value: off by
at most 0.97 at degree 6, 2.03 at degree 5; `ex2.approx` of a GPU is off by up to two.

Below 2^-125 the result is 0, above 2^127 it is 2^127: decays that no float32 state can tell from 0, and no infinity that a
zero could meet.
"""

from __future__ import annotations

from tvm import tirx

from treadle.ir.expr import Expr

LOG2_E = 1.44269504088896341
#: Coefficients by degree, that of r first.
POLYNOMIALS = {
    5: (0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671512991189957, 0.0013264748267829418),
    6: (
        0.6931471824645996, 0.24022649228572845, 0.05550329387187958, 0.009618330746889114, 0.0013399777235463262,
        0.00015384421567432582,
    ),
}  # fmt: skip
LOWEST, HIGHEST = -125.0, 127.0
#: 1.5 * 2^23: its last bit is worth one.
ROUNDING = 12582912.0


def power(t: Expr, degree: int) -> Expr:
    """2^t of a float32 scalar expression."""
    given, kept, r = (tirx.Var(name, "float32") for name in ("t", "kept", "r"))
    bits = tirx.Var("bits", "int32")
    near: Expr = _f32(POLYNOMIALS[degree][-1])
    for c in POLYNOMIALS[degree][-2::-1]:
        near = near * r + _f32(c)
    near = near * r + _f32(1.0)
    # n stands in the last bits of a rounded sum, and what else does is shifted out. As bits, because TVM would take
    # (x + c) - c for x.
    scaled = tirx.reinterpret("float32", tirx.reinterpret("int32", near) + (bits << tirx.const(23, "int32")))
    result: Expr = tirx.Select(given < _f32(LOWEST), _f32(0.0), scaled)
    result = tirx.Let(r, kept - (tirx.reinterpret("float32", bits) - _f32(ROUNDING)), result)
    result = tirx.Let(bits, tirx.reinterpret("int32", kept + _f32(ROUNDING)), result)
    clamped = tirx.Select(given < _f32(LOWEST), _f32(LOWEST), given)
    result = tirx.Let(kept, tirx.Select(_f32(HIGHEST) < clamped, _f32(HIGHEST), clamped), result)
    return tirx.Let(given, t, result)


def _f32(value: float) -> Expr:
    return tirx.const(value, "float32")
