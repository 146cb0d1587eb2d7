"""A register of two 16-bit values, the lower half first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.codegen.ptxsim.pure.table import Array, dtype


def split(x: Array, kind: str) -> Array:
    """The halves of 32-bit registers along a new last axis; those of an immediate alone, to broadcast against the others."""
    pairs = np.ascontiguousarray(x).view(dtype(kind))
    return pairs if np.ndim(x) == 0 else pairs.reshape(-1, 2)


def join(pairs: Array) -> Array:
    """The registers of such halves."""
    registers = np.ascontiguousarray(pairs).view(np.uint32)[..., 0]
    return registers


def halves(fn: Callable[..., Any], kind: str) -> Callable[..., Array]:
    """`fn` of 16-bit values, done to both halves of registers."""
    return lambda *registers: join(fn(*(split(x, kind) for x in registers)))
