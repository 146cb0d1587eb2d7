"""Matrix descriptors of wgmma, against walks over core matrices and over tiles as tensor copies lay them."""

from __future__ import annotations

import numpy as np
import pytest

from treadle.codegen.ptxsim import descriptor, tensor_map
from treadle.codegen.ptxsim.descriptor import Descriptor


def _matrix(memory: np.ndarray, d: Descriptor, lines: int, depth: int, item: int, k_major: bool) -> np.ndarray:
    """What the implementation reads, as (lines, depth) elements."""
    chunks = memory.reshape(-1, 16)[d.chunks(lines, depth * item, k_major) // 16]
    values = chunks.reshape(chunks.shape[0], -1).view(f"u{item}")
    return values if k_major else values.T


def test_fields() -> None:
    d = descriptor.decode(0x4000_0040_0001_0000 | 0x1234)
    assert d == Descriptor(start=0x12340, leading=0x10, stride=0x400, span=128)
    assert descriptor.encode(d) == 0x4000_0040_0001_1234
    assert [descriptor.decode(mode << 62).span for mode in range(4)] == [16, 128, 64, 32]
    assert descriptor.decode(1 << 49).fault and descriptor.decode(1 << 52).fault and not d.fault
    assert descriptor.encode(Descriptor(0x40010, 0, 0, 16)) == 1  # 256 KiB and more are cut off


@pytest.mark.parametrize("item", [1, 2, 4])
@pytest.mark.parametrize("lines", [8, 64, 256])
def test_core_matrices_without_swizzle(item: int, lines: int) -> None:
    """K-major: core matrices of 8 lines of 16 bytes, `leading` apart along K, `stride` apart along the lines."""
    rng = np.random.default_rng(item)
    memory = np.zeros(65536, np.uint8)
    depth, per = 32 // item, 16 // item
    want = rng.integers(0, 255, (lines, depth)).astype(f"u{item}")
    start, leading, stride = 1024, 128, 256
    for line in range(lines):
        for k in range(depth):
            at = start + line // 8 * stride + k // per * leading + line % 8 * 16 + k % per * item
            memory[at : at + item] = want[line, k : k + 1].view(np.uint8)
    assert (_matrix(memory, Descriptor(start, leading, stride, 16), lines, depth, item, True) == want).all()


@pytest.mark.parametrize("lines", [8, 64, 256])
def test_core_matrices_without_swizzle_across(lines: int) -> None:
    """MN-major: core matrices of 8 depths of 8 lines, `stride` apart along the lines, `leading` apart along K."""
    rng = np.random.default_rng(2)
    memory = np.zeros(65536, np.uint8)
    want = rng.integers(0, 65535, (lines, 16)).astype(np.uint16)
    start, leading, stride = 512, 128 * (lines // 8), 128
    for line in range(lines):
        for k in range(16):
            at = start + line // 8 * stride + k // 8 * leading + k % 8 * 16 + line % 8 * 2
            memory[at : at + 2] = want[line, k : k + 1].view(np.uint8)
    assert (_matrix(memory, Descriptor(start, leading, stride, 16), lines, 16, 2, False) == want).all()


def _copied(array: np.ndarray, span: int, start: int, memory: np.ndarray) -> None:
    """`array` (rows, span bytes of columns) into shared memory, as a tensor copy with this swizzle does."""
    rows, columns = array.shape
    item = array.dtype.itemsize
    type_ = {1: "u8", 2: "u16", 4: "u32"}[item]
    for first in range(0, rows, 256):
        part = array[first : first + 256]
        map_ = tensor_map.decode(tensor_map.encode(type_, 0, (columns, rows), (span,), (columns, len(part)), span=span))
        memory.reshape(-1, 16)[map_.chunks(start + first * span) // 16] = (
            np.ascontiguousarray(part).view(np.uint8).reshape(-1, 16)
        )


@pytest.mark.parametrize("span", [32, 64, 128])
@pytest.mark.parametrize("item", [1, 2, 4])
@pytest.mark.parametrize("lines", [8, 64, 256])
def test_along_k_over_a_copied_tile(span: int, item: int, lines: int) -> None:
    """A tile of `span` bytes of K: every 32 bytes of it are one product's depth, reached by advancing the start address."""
    rng = np.random.default_rng(span)
    tile = rng.integers(0, 255, (lines, span // item)).astype(f"u{item}")
    memory = np.zeros(65536, np.uint8)
    _copied(tile, span, 2048, memory)
    depth = 32 // item
    for step in range(span // 32):
        d = Descriptor(2048 + 32 * step, 16, 8 * span, span)
        assert (_matrix(memory, d, lines, depth, item, True) == tile[:, step * depth : (step + 1) * depth]).all()


@pytest.mark.parametrize("span", [32, 64, 128])
@pytest.mark.parametrize("lines", [64, 128, 256])
def test_across_k_over_copied_tiles(span: int, lines: int) -> None:
    """K lines of `span` bytes of M or N each, tile after tile along M or N: `leading` apart; 8 lines of K are `stride` apart."""
    rng = np.random.default_rng(span)
    whole = rng.integers(0, 65535, (lines, 32)).astype(np.uint16)
    memory = np.zeros(65536, np.uint8)
    width = span // 2
    for first in range(0, lines, width):
        _copied(np.ascontiguousarray(whole[first : first + width].T), span, 1024 + first // width * 32 * span, memory)
    for step in range(2):
        d = Descriptor(1024 + step * 16 * span, 32 * span, 8 * span, span)
        assert (_matrix(memory, d, lines, 16, 2, False) == whole[:, step * 16 : step * 16 + 16]).all()
