"""PTX types as numpy holds them. A register is raw bits; an instruction's type says how to look at them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_PACKED = {
    "f16x2": 4,
    "bf16x2": 4,
    "u16x2": 4,
    "s16x2": 4,
    "f32x2": 8,
    "e4m3x2": 2,
    "e5m2x2": 2,
    "e4m3x4": 4,
    "e5m2x4": 4,
    "tf32": 4,
}
_PLAIN = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64, "pred": np.bool_}


def dtype(type_: str) -> np.dtype[Any] | None:
    """The dtype of one value, or None where the type is none of a register's."""
    if type_ in _PLAIN:
        return np.dtype(_PLAIN[type_])
    if type_ in _PACKED:
        return np.dtype(_UNSIGNED[_PACKED[type_]])
    if type_[0] in "bus" and type_[1:] in ("8", "16", "32", "64"):
        return np.dtype(f"{'i' if type_[0] == 's' else 'u'}{int(type_[1:]) // 8}")
    return None


def raw(type_: str) -> np.dtype[Any]:
    """The unsigned integer of a type's width, or bool; for types that have a dtype."""
    found = dtype(type_)
    assert found is not None, type_
    return found if found == np.bool_ else np.dtype(_UNSIGNED[found.itemsize])
