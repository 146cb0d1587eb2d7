"""The swizzle against the picture of the CUDA programming guide: rows of 16-byte chunks that change places."""

from __future__ import annotations

import numpy as np
import pytest

from treadle.codegen.ptxsim import swizzle


def _chunk(row: int, chunk: int, span: int) -> int:
    """Where chunk `chunk` of 128-byte row `row` goes: with 128 bytes by the row, with 64 by half of it, with 32 by a quarter."""
    if span == 128:
        return chunk ^ (row % 8)
    if span == 64:
        return chunk ^ (row % 4)
    if span == 32:
        return chunk ^ (row % 2)
    return chunk


@pytest.mark.parametrize("span", swizzle.SPANS)
def test_chunks_change_places_by_their_row(span: int) -> None:
    for row in range(32):
        for chunk in range(8):
            for byte in (0, 7, 15):
                address = row * 128 + chunk * 16 + byte
                assert swizzle.swizzled(address, span) == row * 128 + _chunk(row, chunk, span) * 16 + byte


@pytest.mark.parametrize("span", swizzle.SPANS)
def test_it_is_its_own_inverse_and_repeats(span: int) -> None:
    address = np.arange(8192)
    there = swizzle.swizzled(address, span)
    assert (swizzle.swizzled(there, span) == address).all()
    period = swizzle.pattern(span)
    assert (swizzle.swizzled(address + period, span) == there + period).all()
    if span > 16:
        assert (swizzle.swizzled(address + period // 2, span) != there + period // 2).any()


def test_the_guides_transposition_example() -> None:
    """A column of 8 chunks in rows of 128 bytes touches all 8 places: no bank conflict."""
    assert sorted(swizzle.swizzled(r * 128 + 3 * 16, 128) % 128 // 16 for r in range(8)) == list(range(8))
