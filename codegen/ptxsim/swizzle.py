"""The permutation of 16-byte chunks that tensor copies and warpgroup products share.

A span of 32, 64 or 128 bytes is the row in which chunks change places; which places follows from the address itself, not from
where the tile starts, so that a tile on another boundary than its pattern's is read as the silicon reads it. A span of 16 bytes
holds one chunk: no swizzle.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

SPANS = (16, 32, 64, 128)

Address = TypeVar("Address", int, np.ndarray)


def swizzled(address: Address, span: int) -> Address:
    """Where the byte that an unswizzled tile has at `address` lies: the low chunk bits are XORed with those three above."""
    return address ^ ((address >> 3) & (span - 16))


def pattern(span: int) -> int:
    """The bytes after which the permutation repeats; 16 without one."""
    return span * 8 if span > 16 else 16
