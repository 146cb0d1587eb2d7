"""What mma and wgmma compute: D = A B + C with its types, on whole matrices.

Products of every type here are exact in float64, and so are nearly all sums of one instruction; the result is rounded once, to
the accumulator's type. Tensor cores keep fewer bits, in an order that the ISA leaves open: neither is modelled, so results agree
with a GPU's only within a bound.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import ml_dtypes
import numpy as np

from treadle.codegen.ptxsim import fragments
from treadle.codegen.ptxsim.fragments import Fragment


@dataclass(frozen=True)
class Element:
    """A type of matrix elements: what raw words are made of, and how to read them as numbers."""

    bits: int
    raw: np.dtype
    kind: str  # "float" or "int"

    @property
    def per_register(self) -> int:
        """Elements in a 32-bit register (f64: in its 64-bit one)."""
        return max(1, 32 // self.bits)

    @property
    def word(self) -> np.dtype:
        """The register's dtype."""
        return np.dtype(np.uint64 if self.bits == 64 else np.uint32)


ELEMENTS = {
    "f16": Element(16, np.dtype(np.float16), "float"),
    "bf16": Element(16, np.dtype(ml_dtypes.bfloat16), "float"),
    "tf32": Element(32, np.dtype(np.uint32), "float"),
    "f32": Element(32, np.dtype(np.float32), "float"),
    "f64": Element(64, np.dtype(np.float64), "float"),
    "e4m3": Element(8, np.dtype(ml_dtypes.float8_e4m3fn), "float"),
    "e5m2": Element(8, np.dtype(ml_dtypes.float8_e5m2), "float"),
    "s8": Element(8, np.dtype(np.int8), "int"),
    "u8": Element(8, np.dtype(np.uint8), "int"),
    "s32": Element(32, np.dtype(np.int32), "int"),
}


def numbers(matrix: np.ndarray, type: str) -> np.ndarray:
    """Raw elements of a PTX type as float64. Of tf32 the low 13 bits do not count."""
    if type == "tf32":
        matrix = (matrix & np.uint32(0xFFFFE000)).view(np.float32)
    return matrix.astype(np.float64)


def multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray | None, type: str, saturate: bool = False) -> np.ndarray:
    """A B + C of float64 matrices (stacked along the first axis), C of type `type` or none, as elements of `type`."""
    element = ELEMENTS[type]
    with np.errstate(all="ignore"):
        d = a @ b
        if c is not None:
            d = d + c
        if element.kind == "float":
            return d.astype(element.raw)
    if saturate:
        return np.clip(d, -(2**31), 2**31 - 1).astype(np.int32)
    return d.astype(np.int64).astype(np.int32)


@dataclass(frozen=True)
class Product:
    """One mma or wgmma instruction: its shape, its types, and how its matrices are spread over `warps` warps."""

    m: int
    n: int
    k: int
    d: str
    a: str
    b: str
    saturate: bool
    warps: int

    @cached_property
    def left(self) -> Fragment:
        """A in registers."""
        return fragments.left(self.m, self.k, ELEMENTS[self.a].per_register, self.warps)

    @cached_property
    def right(self) -> Fragment:
        """B in registers; mma only."""
        return fragments.right(self.k, self.n, ELEMENTS[self.b].per_register)

    @cached_property
    def result(self) -> Fragment:
        """C and D."""
        return fragments.accumulator(self.m, self.n, ELEMENTS[self.d].per_register, self.warps)

    def from_left(self, registers: np.ndarray) -> np.ndarray:
        """A's numbers."""
        return numbers(self.left.join(registers, ELEMENTS[self.a].raw), self.a)

    def from_right(self, registers: np.ndarray) -> np.ndarray:
        """B's numbers."""
        return numbers(self.right.join(registers, ELEMENTS[self.b].raw), self.b)

    def from_result(self, registers: np.ndarray) -> np.ndarray:
        """C's numbers."""
        return numbers(self.result.join(registers, ELEMENTS[self.d].raw), self.d)

    def to_registers(self, a: np.ndarray, b: np.ndarray, c: np.ndarray | None) -> np.ndarray:
        """D = A B + C as (registers, threads)."""
        return self.result.split(multiply_add(a, b, c, self.d, self.saturate), ELEMENTS[self.d].word)


_SHAPE = re.compile(r"m(\d+)n(\d+)k(\d+)")
_EIGHT_BITS = {"s8": "int", "u8": "int", "e4m3": "float", "e5m2": "float"}

# (A's type, accumulator) -> shapes of mma.sync; all of them multiply a row-major A by a column-major B.
_MMA: dict[tuple[str, str], tuple[tuple[int, int, int], ...]] = {
    ("f16", "f16"): ((16, 8, 8), (16, 8, 16)),
    ("f16", "f32"): ((16, 8, 8), (16, 8, 16)),
    ("bf16", "f32"): ((16, 8, 8), (16, 8, 16)),
    ("tf32", "f32"): ((16, 8, 4), (16, 8, 8)),
    ("e4m3", "f32"): ((16, 8, 32),),
    ("s8", "s32"): ((8, 8, 16), (16, 8, 16), (16, 8, 32)),
    ("f64", "f64"): ((8, 8, 4), (16, 8, 4), (16, 8, 8), (16, 8, 16)),
}
_FAMILY = {"u8": "s8", "e5m2": "e4m3"}  # types that mix, and share their shapes


def mma(mods: Sequence[str]) -> Product | None:
    """`mma.sync.aligned...` by its modifiers; None: outside the table."""
    found = _parse(mods, ("sync", "aligned"), layouts=("row", "col"))
    if found is None or len(found.types) != 4 or found.types[0] != found.types[3]:
        return None
    d, a, b, _ = found.types
    if not _mix(a, b) or found.shape not in _MMA.get((_FAMILY.get(a, a), d), ()) or (found.saturate and d != "s32"):
        return None
    return Product(*found.shape, d, a, b, found.saturate, warps=1)


_DEPTH = {"f16": 16, "bf16": 16, "tf32": 8, "e4m3": 32, "s8": 32}
_RESULTS = {"f16": ("f16", "f32"), "bf16": ("f32",), "tf32": ("f32",), "e4m3": ("f16", "f32"), "s8": ("s32",)}


def wgmma(mods: Sequence[str]) -> Product | None:
    """`wgmma.mma_async.sync.aligned...` by its modifiers; None: outside the table."""
    found = _parse(mods, ("mma_async", "sync", "aligned"))
    if found is None or len(found.types) != 3:
        return None
    d, a, b = found.types
    family = _FAMILY.get(a, a)
    m, n, k = found.shape
    columns = (*range(8, 33, 8), *range(48, 257, 16)) if d == "s32" else range(8, 257, 8)
    if not _mix(a, b) or d not in _RESULTS.get(family, ()) or (m, k) != (64, _DEPTH[family]) or n not in columns:
        return None
    if found.saturate and d != "s32":
        return None
    return Product(m, n, k, d, a, b, found.saturate, warps=4)


@dataclass(frozen=True)
class _Parsed:
    shape: tuple[int, int, int]
    types: tuple[str, ...]
    saturate: bool


def _parse(mods: Sequence[str], first: tuple[str, ...], layouts: tuple[str, ...] = ()) -> _Parsed | None:
    at = len(first)
    shape = _SHAPE.fullmatch(mods[at]) if tuple(mods[:at]) == first and len(mods) > at else None
    if shape is None or tuple(mods[at + 1 : at + 1 + len(layouts)]) != layouts:
        return None
    rest = tuple(mods[at + 1 + len(layouts) :])
    m, n, k = (int(s) for s in shape.groups())
    return _Parsed((m, n, k), tuple(r for r in rest if r not in ("satfinite", "rn")), "satfinite" in rest)


def _mix(a: str, b: str) -> bool:
    return a == b or (a in _EIGHT_BITS and _EIGHT_BITS.get(b) == _EIGHT_BITS[a])
