"""Tensor maps: what cuTensorMapEncodeTiled writes and cp.async.bulk.tensor reads, and the geometry of a box.

The 128 bytes are ours; NVIDIA's are not documented. The limits are those that the CUDA driver documents for tile mode.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from treadle.codegen.ptxsim.swizzle import SPANS, swizzled
from treadle.errors import ArgumentError

MAGIC = 0x50414D54
BYTES = 128
_LAYOUT = struct.Struct("<I4B2B5BxQ5I4x4Q5I28x")

# By CUtensorMapDataType's numbers.
TYPES = ("u8", "u16", "u32", "s32", "u64", "s64", "f16", "f32", "f64", "bf16", "f32.ftz", "tf32", "tf32.ftz")
_DTYPES = (
    np.uint8, np.uint16, np.uint32, np.int32, np.uint64, np.int64, np.float16, np.float32, np.float64, ml_dtypes.bfloat16,
    np.float32, np.float32, np.float32,
)  # fmt: skip
_NAN = {"f16": 0x7FFF, "bf16": 0x7FFF, "f32": 0x7FFFFFFF, "f32.ftz": 0x7FFFFFFF, "f64": 0x7FFFFFFFFFFFFFFF}


@dataclass(frozen=True)
class Tile:
    """A box at some coordinates: which of its rows lie in the tensor, where, and which bytes of every row."""

    rows: np.ndarray  # global address of the first byte inside, of the rows that are inside
    inside: np.ndarray  # bool, over all rows of the box
    first: int
    last: int

    @property
    def empty(self) -> bool:
        """Whether nothing of the box lies in the tensor."""
        return self.first >= self.last or not self.rows.size


@dataclass(frozen=True)
class TensorMap:
    """A tensor in global memory and the box that a copy moves; dimensions innermost first."""

    type: str
    address: int
    dims: tuple[int, ...]
    strides: tuple[int, ...]  # bytes, of dimensions 1 and up
    box: tuple[int, ...]
    element_strides: tuple[int, ...]
    span: int = 16  # of the swizzle; 16: none
    nan_fill: bool = False
    promotion: int = 0

    @property
    def rank(self) -> int:
        """Dimensions."""
        return len(self.dims)

    @property
    def dtype(self) -> np.dtype:
        """The elements as numpy has them."""
        return np.dtype(_DTYPES[TYPES.index(self.type)])

    @property
    def counts(self) -> tuple[int, ...]:
        """Elements that land in shared memory along each dimension; the innermost has no element stride."""
        return (self.box[0], *(-(-b // s) for b, s in zip(self.box[1:], self.element_strides[1:], strict=True)))

    @property
    def row_bytes(self) -> int:
        """Bytes of the box's innermost dimension."""
        return self.box[0] * self.dtype.itemsize

    @property
    def rows(self) -> int:
        """Rows of the box, all outer dimensions together."""
        return int(np.prod(self.counts[1:], dtype=np.int64))

    @property
    def bytes(self) -> int:
        """Bytes in shared memory, and what a load reports to its mbarrier, whether inside the tensor or not."""
        return self.rows * self.row_bytes

    @property
    def fill(self) -> np.ndarray:
        """One row of what stands for elements outside."""
        if not self.nan_fill:
            return np.zeros(self.row_bytes, np.uint8)
        item = self.dtype.itemsize
        return np.frombuffer(_NAN[self.type].to_bytes(item, "little") * self.box[0], np.uint8).copy()

    def tile(self, coordinates: Sequence[int]) -> Tile:
        """The box whose first element is at `coordinates`, which may be outside."""
        item = self.dtype.itemsize
        low = max(0, -coordinates[0])
        high = min(self.box[0], self.dims[0] - coordinates[0])
        offsets = np.zeros(1, np.int64)
        inside = np.ones(1, bool)
        for d in range(1, self.rank):  # the outermost varies slowest
            at = coordinates[d] + np.arange(self.counts[d], dtype=np.int64) * self.element_strides[d]
            offsets = (at[:, None] * self.strides[d - 1] + offsets).ravel()
            inside = (((at >= 0) & (at < self.dims[d]))[:, None] & inside).ravel()
        rows = (self.address + (coordinates[0] + low) * item + offsets[inside]).astype(np.uint64)
        return Tile(rows, inside, low * item, max(low, high) * item)

    def chunks(self, shared: int) -> np.ndarray:
        """Where the 16-byte chunks of the box lie in shared memory, row by row, from address `shared` on."""
        return swizzled(shared + np.arange(0, self.bytes, 16, dtype=np.int64), self.span)

    def loaded(self, raw: np.ndarray) -> np.ndarray:
        """Bytes read from global memory as a load delivers them: denormals flushed where the type says so."""
        if self.type != "f32.ftz":
            return raw
        values = raw.view(np.uint32).copy()
        values[(values & 0x7F800000) == 0] &= 0x80000000
        return values.view(np.uint8)


def encode(
    type: str,
    address: int,
    dims: Sequence[int],
    strides: Sequence[int],
    box: Sequence[int],
    *,
    element_strides: Sequence[int] | None = None,
    span: int = 16,
    nan_fill: bool = False,
    promotion: int = 0,
) -> bytes:
    """The 128 bytes of a map, checked; what the CUDA driver would refuse is an ArgumentError."""
    if type not in TYPES:
        raise ArgumentError("a tensor map's data type", given=repr(type), expected="one of " + ", ".join(TYPES))
    steps = tuple(element_strides or (1,) * len(dims))
    tensor_map = TensorMap(type, address, tuple(dims), tuple(strides), tuple(box), steps, span, nan_fill, promotion)
    _check(tensor_map)
    rank = tensor_map.rank

    def padded(values: Sequence[int], count: int) -> list[int]:
        return [*values, *[0] * (count - len(values))]

    return _LAYOUT.pack(
        MAGIC, TYPES.index(type), rank, 0, SPANS.index(span), promotion, int(nan_fill), *padded(steps, 5), address,
        *padded(dims, 5), *padded(strides, 4), *padded(box, 5),
    )  # fmt: skip


def decode(raw: bytes) -> TensorMap:
    """The map in 128 bytes, checked again: they may come from anywhere."""
    if len(raw) != BYTES:
        raise ArgumentError("a tensor map", given=f"{len(raw)} bytes", expected=f"{BYTES}")
    magic, type_, rank, interleave, swizzle, promotion, fill, *rest = _LAYOUT.unpack(raw)
    if magic != MAGIC:
        raise ArgumentError("these bytes are no tensor map", given=f"{magic:#010x}", expected=f"{MAGIC:#010x} first")
    if not 1 <= rank <= 5:
        raise ArgumentError("a tensor map's rank", given=rank, expected="1 to 5")
    if type_ >= len(TYPES):
        raise ArgumentError("a tensor map's data type", given=type_, expected=f"0 to {len(TYPES) - 1}: others are not modelled")
    if interleave:
        raise ArgumentError("an interleaved tensor map", given=interleave, expected="0: other layouts are not modelled")
    if swizzle >= len(SPANS):
        raise ArgumentError("a tensor map's swizzle", given=swizzle, expected="0 to 3: others are not modelled")
    steps, address, dims, strides, box = rest[:5], rest[5], rest[6:11], rest[11:15], rest[15:20]
    tensor_map = TensorMap(
        TYPES[type_],
        address,
        tuple(dims[:rank]),
        tuple(strides[: rank - 1]),
        tuple(box[:rank]),
        tuple(steps[:rank]),
        SPANS[swizzle],
        bool(fill),
        promotion,
    )
    _check(tensor_map)
    return tensor_map


def _check(m: TensorMap) -> None:
    rank = m.rank
    for name, values, count in (
        ("dimensions", m.dims, rank),
        ("strides", m.strides, rank - 1),
        ("box", m.box, rank),
        ("element strides", m.element_strides, rank),
    ):
        if not 1 <= rank <= 5 or len(values) != count:
            raise ArgumentError(f"a tensor map's {name}", given=len(values), expected=f"{count} of them, rank 1 to 5")
    item = m.dtype.itemsize
    rules = (
        (m.span in SPANS, "swizzle span", m.span, "16, 32, 64 or 128 bytes"),
        (not m.type.startswith("tf32"), "data type", m.type, "another: the rounding of a tf32 load is not documented"),
        (m.address % 16 == 0, "address", hex(m.address), "a multiple of 16"),
        (all(1 <= d < 2**32 for d in m.dims), "dimensions", m.dims, "1 to 2^32 - 1"),
        (all(s % 16 == 0 and 0 < s < 2**40 for s in m.strides), "strides", m.strides, "multiples of 16 below 2^40"),
        (all(1 <= b <= 256 for b in m.box), "box", m.box, "1 to 256"),
        (all(1 <= s <= 8 for s in m.element_strides), "element strides", m.element_strides, "1 to 8"),
        (m.box[0] * item % 16 == 0, "innermost box", f"{m.box[0] * item} bytes", "a multiple of 16"),
        (not m.nan_fill or m.type in _NAN, "fill", f"NaN for {m.type}", "a type that has NaN"),
        (
            m.span == 16 or m.box[0] * item == m.span,
            "innermost box",
            f"{m.box[0] * item} bytes",
            f"{m.span}, the swizzle's span: wider is forbidden, the layout of a narrower one is not documented",
        ),
    )
    for holds, what, given, expected in rules:
        if not holds:
            raise ArgumentError(f"a tensor map's {what}", given=given, expected=expected)
