"""Tensor maps: the bytes by the plan's table, and boxes against a walk over their elements."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence

import numpy as np
import pytest

from treadle.codegen.ptxsim import tensor_map
from treadle.errors import ArgumentError


def test_the_bytes() -> None:
    raw = tensor_map.encode(
        "bf16",
        0x7F0000001000,
        (100, 50, 7),
        (256, 12800),
        (64, 8, 2),
        element_strides=(1, 2, 1),
        span=128,
        nan_fill=True,
        promotion=2,
    )
    assert len(raw) == 128
    assert struct.unpack_from("<I", raw, 0) == (0x50414D54,)
    assert tuple(raw[4:8]) == (9, 3, 0, 3)
    assert tuple(raw[8:16]) == (2, 1, 1, 2, 1, 0, 0, 0)
    assert struct.unpack_from("<Q", raw, 16) == (0x7F0000001000,)
    assert struct.unpack_from("<6I", raw, 24) == (100, 50, 7, 0, 0, 0)
    assert struct.unpack_from("<4Q", raw, 48) == (256, 12800, 0, 0)
    assert struct.unpack_from("<5I", raw, 80) == (64, 8, 2, 0, 0)
    assert raw[100:] == bytes(28)
    assert tensor_map.encode(
        "bf16", 0x7F0000001000, (100, 50, 7), (256, 12800), (64, 8, 2), element_strides=(1, 2, 1), span=128, nan_fill=True, promotion=2
    ) == raw  # fmt: skip


def _walk(array: np.ndarray, box: Sequence[int], steps: Sequence[int], at: Sequence[int], fill: int) -> np.ndarray:
    """The box, innermost first, element by element; `array` has its innermost dimension last."""
    counts = [box[0]] + [-(-b // s) for b, s in zip(box[1:], steps[1:], strict=True)]
    out = []
    for index in itertools.product(*(range(c) for c in reversed(counts))):
        index = index[::-1]
        where = [a + i * (1 if d == 0 else steps[d]) for d, (a, i) in enumerate(zip(at, index, strict=True))]
        inside = all(0 <= w < n for w, n in zip(where, array.shape[::-1], strict=True))
        out.append(array[tuple(where[::-1])] if inside else fill)
    return np.array(out, array.dtype)


SHAPES = [
    ((40,), (16,), (1,)),
    ((40, 11), (8, 4), (1, 1)),
    ((40, 11), (24, 9), (1, 2)),
    ((16, 5, 6), (8, 2, 5), (1, 1, 3)),
    ((16, 3, 4, 3), (8, 2, 2, 2), (1, 1, 1, 2)),
    ((8, 3, 2, 3, 2), (8, 2, 2, 2, 2), (1, 1, 1, 1, 1)),
]


@pytest.mark.parametrize(("dims", "box", "steps"), SHAPES)
@pytest.mark.parametrize("type", ["u16", "f32", "u64"])
def test_boxes_at_random_coordinates_also_outside(
    dims: tuple[int, ...], box: tuple[int, ...], steps: tuple[int, ...], type: str
) -> None:
    rng = np.random.default_rng(len(dims))
    dtype = np.dtype({"u16": np.uint16, "f32": np.float32, "u64": np.uint64}[type])
    array = rng.integers(1, 60000, dims[::-1]).astype(dtype)
    memory = np.frombuffer(array.tobytes(), np.uint8)
    base = 4096
    map_ = tensor_map.decode(tensor_map.encode(type, base, dims, array.strides[-2::-1], box, element_strides=steps))
    for _ in range(40):
        at = [int(rng.integers(-b - 1, n + 2)) for b, n in zip(box, dims, strict=True)]
        tile = map_.tile(at)
        rows = np.tile(map_.fill, (map_.rows, 1))
        if not tile.empty:
            bytes_ = np.arange(tile.last - tile.first)
            rows[tile.inside, tile.first : tile.last] = memory[(tile.rows[:, None] - np.uint64(base)).astype(np.int64) + bytes_]
        assert map_.bytes == rows.size
        assert (rows.ravel().view(dtype) == _walk(array, box, steps, at, 0)).all(), at


@pytest.mark.parametrize("span", [32, 64, 128])
def test_chunks_are_swizzled_by_their_address(span: int) -> None:
    map_ = tensor_map.decode(tensor_map.encode("u8", 0, (1024, 64), (1024,), (span, 16), span=span))
    for start in (0, 128, 1024 + 256):  # also off the pattern's boundary
        got = map_.chunks(start)
        for n in range(16 * span // 16):
            address = start + n * 16
            row128, chunk = address // 128, address % 128 // 16
            assert got[n] == row128 * 128 + (chunk ^ row128 % (span // 16)) * 16


@pytest.mark.parametrize(("type", "bits"), [("f16", 0x7FFF), ("bf16", 0x7FFF), ("f32", 0x7FFFFFFF)])
def test_nan_outside(type: str, bits: int) -> None:
    map_ = tensor_map.decode(tensor_map.encode(type, 0, (16, 4), (64,), (16, 2), nan_fill=True))
    words = map_.fill.view(f"u{map_.dtype.itemsize}")
    assert (words == bits).all() and len(words) == 16
    assert np.isnan(map_.fill.view(map_.dtype).astype(np.float32)).all()


def test_flushed_denormals() -> None:
    map_ = tensor_map.decode(tensor_map.encode("f32.ftz", 0, (16,), (), (4,)))
    words = np.array([1, 0x80000001, 0x00800000, 0x7F800000], np.uint32)
    assert map_.loaded(words.view(np.uint8)).view(np.uint32).tolist() == [0, 0x80000000, 0x00800000, 0x7F800000]


GOOD = {"type": "f32", "address": 64, "dims": (64, 32), "strides": (256,), "box": (32, 8)}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"type": "f8"}, "data type"),
        ({"type": "tf32"}, "data type"),
        ({"address": 8}, "address"),
        ({"dims": (0, 32)}, "dimensions"),
        ({"dims": (64, 2**32)}, "dimensions"),
        ({"strides": (100,)}, "strides"),
        ({"strides": (2**40,)}, "strides"),
        ({"strides": ()}, "strides"),
        ({"box": (32, 257)}, "box"),
        ({"box": (3, 8)}, "innermost box"),
        ({"element_strides": (1, 9)}, "element strides"),
        ({"span": 64}, "innermost box"),
        ({"span": 48}, "swizzle"),
        ({"type": "u32", "nan_fill": True}, "fill"),
        ({"dims": (1,) * 6, "strides": (16,) * 5, "box": (4,) * 6}, "dimensions"),
    ],
)
def test_what_the_driver_refuses(change: dict, word: str) -> None:
    tensor_map.encode(**GOOD)
    with pytest.raises(ArgumentError, match=word):
        tensor_map.encode(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("offset", "value", "word"),
    [
        (0, 0, "no tensor map"),
        (4, 13, "data type"),
        (5, 0, "rank"),
        (5, 6, "rank"),
        (6, 1, "interleaved"),
        (7, 4, "swizzle"),
        (16, 3, "address"),
    ],
)
def test_damaged_bytes(offset: int, value: int, word: str) -> None:
    raw = bytearray(tensor_map.encode(**GOOD))
    raw[offset] = value
    with pytest.raises(ArgumentError, match=word):
        tensor_map.decode(bytes(raw))
    with pytest.raises(ArgumentError, match="bytes"):
        tensor_map.decode(bytes(64))
