"""The one table of dtypes.

A dtype is written the same way everywhere: in a Program, in a manifest, on the
command line and in an error message.  The DLPack pair (code, bits) is what the
kernels check on entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from treadle.errors import UnknownNameError


@dataclass(frozen=True)
class DType:
    """One element type."""

    name: str
    code: int  #: DLPack type code
    bits: int
    eps: float | None = None  #: spacing of floats at 1.0; None for integers and bool

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.bits // 8

    @property
    def floating(self) -> bool:
        """True for every float, the 8-bit ones included."""
        return self.eps is not None

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype; bfloat16 and float8 come from ml_dtypes."""
        return np.dtype(getattr(ml_dtypes, self.name, self.name))

    def __str__(self) -> str:
        return self.name


# DLPack codes: 0 int, 1 uint, 2 float, 4 bfloat, 6 bool, 10 float8_e4m3fn, 12 float8_e5m2.
DTYPES: Mapping[str, DType] = MappingProxyType(
    {
        dtype.name: dtype
        for dtype in (
            DType("float32", 2, 32, eps=2.0**-23),
            DType("float16", 2, 16, eps=2.0**-10),
            DType("bfloat16", 4, 16, eps=2.0**-7),
            DType("float64", 2, 64, eps=2.0**-52),
            DType("int32", 0, 32),
            DType("int64", 0, 64),
            DType("uint8", 1, 8),
            DType("int8", 0, 8),
            DType("bool", 6, 8),
            DType("float8_e4m3fn", 10, 8, eps=2.0**-3),
            DType("float8_e5m2", 12, 8, eps=2.0**-2),
        )
    }
)

_OF_NUMPY = {dtype.numpy: dtype for dtype in DTYPES.values()}


def dtype(name: str) -> DType:
    """The dtype called `name`."""
    try:
        return DTYPES[name]
    except KeyError:
        raise UnknownNameError.unknown("dtype", str(name), DTYPES) from None


def of_numpy(np_dtype: np.dtype[Any]) -> DType | None:
    """The dtype of a numpy dtype in native byte order, or None where no kernel knows it."""
    return _OF_NUMPY.get(np_dtype)
