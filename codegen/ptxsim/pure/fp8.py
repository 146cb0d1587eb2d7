"""The 8-bit floats of sm_89 and sm_90, two in a register of 16 bits: a in the upper byte, b in the lower."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from treadle.codegen.ptxsim.pure.finish import NAN, rectify
from treadle.codegen.ptxsim.pure.packed import split
from treadle.codegen.ptxsim.pure.table import Array, Mods, Pure, opcode


@dataclass(frozen=True)
class Format:
    """A sign, an exponent, `mantissa` bits; `largest` is the code of the largest number, `nan` that of a NaN."""

    mantissa: int
    bias: int
    largest: int
    nan: int
    infinity: int | None


FORMATS = {"e4m3x2": Format(3, 7, 0x7E, 0x7F, None), "e5m2x2": Format(2, 15, 0x7B, 0x7F, 0x7C)}


def encode(x: Array, form: Format) -> Array:
    """float32s as the nearest codes, ties to even; what is too large, infinities too, as the largest number."""
    size = np.abs(x)
    lowest = 1 - form.bias  # the exponent that subnormals share, and zero, of which frexp says 0
    exponent = np.where(size < 2.0**lowest, lowest, np.frexp(size)[1] - 1)
    steps = np.rint(np.ldexp(size, form.mantissa - exponent))  # exact but for the rounding that is asked for
    # A mantissa that rounds up to the next power of two carries into the exponent, as it should.
    code = steps.astype(np.int64) + ((exponent - lowest) << form.mantissa)
    code = np.where(np.isfinite(x), np.minimum(code, form.largest), form.largest)
    signed = code | np.where(np.signbit(x), 0x80, 0)
    return np.where(np.isnan(x), form.nan, signed).astype(np.uint8)


def _decoded(form: Format) -> Array:
    """The f16 of each code; every one is exact."""
    code = np.arange(256)  # the codes that are no numbers come out as some number first
    size, fraction = code & 0x7F, code & ((1 << form.mantissa) - 1)
    exponent = size >> form.mantissa
    steps = np.where(exponent > 0, fraction + (1 << form.mantissa), fraction).astype(np.float64)
    value = np.ldexp(steps, np.maximum(exponent, 1) - form.bias - form.mantissa)
    if form.infinity is not None:
        value = np.where(size == form.infinity, np.inf, value)
    with np.errstate(over="ignore"):
        value = np.where(code & 0x80, -value, value).astype(np.float16)
    return np.where(size > (form.infinity or form.largest), NAN["f16"], value)


_DECODED = {name: _decoded(form) for name, form in FORMATS.items()}


@opcode("cvt")
def _to_fp8(mods: Mods) -> Pure:
    """cvt.rn.satfinite{.relu} from two f32 or from f16x2."""
    mods.need("rn")
    mods.need("satfinite")
    relu = mods.flag("relu")
    out = mods.type(*FORMATS)
    kind = mods.type("f32", "f16x2")
    mods.end()
    form = FORMATS[out]

    def convert(x: Array) -> Array:
        return encode(rectify(x, "f32") if relu else x, form).astype(np.uint16)

    def pack(upper: Array, lower: Array) -> Array:
        return (convert(upper) << np.uint16(8)) | convert(lower)

    if kind == "f32":
        return Pure((out,), ("f32", "f32"), pack)

    def of_halves(a: Array) -> Array:
        pairs = split(a, "f16").astype(np.float32)
        return pack(pairs[..., 1], pairs[..., 0])

    return Pure((out,), (kind,), of_halves)


@opcode("cvt")
def _from_fp8(mods: Mods) -> Pure:
    """cvt.rn{.relu}.f16x2: exact, whatever it says."""
    mods.need("rn")
    relu = mods.flag("relu")
    mods.type("f16x2")
    kind = mods.type(*FORMATS)
    mods.end()
    table = _DECODED[kind]
    if relu:
        table = rectify(table, "f16")
    bits = table.view(np.uint16).astype(np.uint32)
    byte, eight, sixteen = np.uint16(0xFF), np.uint16(8), np.uint32(16)
    return Pure(("f16x2",), (kind,), lambda a: (bits[a >> eight] << sixteen) | bits[a & byte])
