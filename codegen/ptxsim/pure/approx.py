"""The approximations: computed in float64 and rounded once, which is nearer to the truth than the hardware need be.

A bit of a result may therefore differ from a GPU's. Their special cases are those of the exact functions, and so are numpy's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from treadle.codegen.ptxsim.pure.finish import canonical, finish
from treadle.codegen.ptxsim.pure.packed import halves
from treadle.codegen.ptxsim.pure.rounding import narrow, widen
from treadle.codegen.ptxsim.pure.table import Array, Mods, NotThis, Pure, opcode

Unary = Callable[[Array], Array]
_FUNCTIONS: dict[str, Unary] = {
    "rcp": lambda x: 1.0 / x,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "lg2": np.log2,
    "ex2": np.exp2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


def _f32(function: Unary) -> Unary:
    return lambda a: function(a.astype(np.float64)).astype(np.float32)


@opcode("rcp", "sqrt", "rsqrt", "lg2", "ex2", "sin", "cos")
def _single(mods: Mods) -> Pure:
    mods.need("approx")
    ftz = mods.flag("ftz")
    mods.type("f32")
    mods.end()
    return Pure(("f32",), ("f32",), finish(_f32(_FUNCTIONS[mods.opcode]), "f32", ftz=ftz))


@opcode("tanh")
def _tanh(mods: Mods) -> Pure:
    mods.need("approx")
    mods.type("f32")
    mods.end()
    return Pure(("f32",), ("f32",), _f32(np.tanh))


@opcode("tanh", "ex2")
def _half(mods: Mods) -> Pure:
    """In bf16 an ex2 flushes, and says so; a tanh of bf16, and both of f16, do not."""
    mods.need("approx")
    ftz = mods.flag("ftz")
    kind = mods.type("f16", "f16x2", "bf16", "bf16x2")
    mods.end()
    one = kind.removesuffix("x2")
    if ftz != (mods.opcode == "ex2" and one == "bf16"):
        raise NotThis
    function = _FUNCTIONS[mods.opcode]
    fn = finish(lambda a: narrow(function(widen(a)), one, "rn"), one, ftz=ftz)
    return Pure((kind,), (kind,), halves(fn, one) if kind != one else fn)


_RCP_FLUSHES = np.float32(2.0**126)


@opcode("div")
def _division(mods: Mods) -> Pure:
    """div.approx is a * (1/b) with a reciprocal that flushes: of |b| above 2^126 a zero. div.full has the whole range."""
    full = mods.need("approx", "full") == "full"
    ftz = mods.flag("ftz")
    mods.type("f32")
    mods.end()

    def exact(a: Array, b: Array) -> Array:
        return np.divide(a, b, dtype=np.float64).astype(np.float32)

    def approximate(a: Array, b: Array) -> Array:
        flushed = (np.abs(b) > _RCP_FLUSHES) & np.isfinite(b)
        return np.where(flushed, a * np.copysign(np.float32(0), b), exact(a, b))

    return Pure(("f32",), ("f32", "f32"), finish(exact if full else approximate, "f32", ftz=ftz))


_UPPER_WORD = np.uint64(0xFFFFFFFF00000000)


def _gross(function: Unary) -> Unary:
    """On the upper words of float64s alone: what is below is zero, in and out."""

    def upper(x: Array) -> Array:
        return (x.view(np.uint64) & _UPPER_WORD).view(np.float64)

    return lambda a: canonical(upper(function(upper(a))), "f64")


@opcode("rcp", "rsqrt")
def _double(mods: Mods) -> Pure:
    """With ftz the first step of a Newton iteration, 20 bits or so; rsqrt.approx.f64 without it the whole function."""
    mods.need("approx")
    ftz = mods.flag("ftz")
    mods.type("f64")
    mods.end()
    function = _FUNCTIONS[mods.opcode]
    if ftz:
        return Pure(("f64",), ("f64",), finish(_gross(function), "f64", ftz=True))
    if mods.opcode == "rcp":
        raise NotThis
    return Pure(("f64",), ("f64",), function)
