"""What modifiers do around a floating-point operation: flushing of subnormals, saturation, the canonical NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from treadle.codegen.ptxsim.pure.table import Array

modes = ("rn", "rz", "rm", "rp")

_TINY = {
    "f32": np.float32(2.0**-126),
    "f64": np.float64(2.0**-1022),
    "f16": np.float16(2.0**-14),
    "bf16": ml_dtypes.bfloat16(2.0**-126),
}
NAN = {
    "f32": np.uint32(0x7FFFFFFF).view(np.float32),
    "f64": np.uint64(0x7FFFFFFFFFFFFFFF).view(np.float64),
    "f16": np.uint16(0x7FFF).view(np.float16),
    "bf16": np.uint16(0x7FFF).view(ml_dtypes.bfloat16),
}
_OOB_NAN = np.uint16(0xFFFF)


def flush(x: Array, kind: str = "f32") -> Array:
    """Subnormals to zeros of their sign: times 0; all else, NaN too, times 1."""
    return x * (np.abs(x) >= _TINY[kind]).astype(x.dtype)


def saturate(x: Array) -> Array:
    """To [0, 1]; NaN and -0 become +0."""
    of = x.dtype.type
    return np.where(x > 0, np.minimum(x, of(1)), of(0))


def rectify(x: Array, kind: str) -> Array:
    """Negative values, and -0, to +0; NaN to the canonical one."""
    return np.where(x > 0, x, np.where(np.isnan(x), NAN[kind], x.dtype.type(0)))


def canonical(x: Array, kind: str) -> Array:
    """With the NaN that the ISA names."""
    return np.where(np.isnan(x), NAN[kind], x)


def finish(
    fn: Callable[..., Any], kind: str, *, ftz: bool = False, sat: bool = False, relu: bool = False
) -> Callable[..., Any]:
    """An operation on one type with its modifiers. f16 gets the NaN that the ISA names; bf16 has it; f32 and f64 any."""
    if ftz:
        inner = fn

        def flushed(*operands: Array) -> Array:
            return flush(inner(*(flush(x, kind) for x in operands)), kind)

        fn = flushed
    operation = fn
    if sat:
        return lambda *operands: saturate(operation(*operands))
    if relu:
        return lambda *operands: rectify(operation(*operands), kind)
    if kind == "f16":
        return lambda *operands: canonical(operation(*operands), kind)
    return operation


def out_of_bounds(fn: Callable[..., Any]) -> Callable[..., Any]:
    """fma.oob: 0 where an operand is the NaN that a tensor copy fills in out of bounds."""

    def guarded(*operands: Array) -> Array:
        outside: Array = np.False_
        for x in operands:
            outside = outside | (x.view(np.uint16) == _OOB_NAN)
        result = fn(*operands)
        return np.where(outside, result.dtype.type(0), result)

    return guarded
