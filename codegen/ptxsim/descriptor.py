"""The 64-bit word that tells wgmma where a matrix lies in shared memory.

A matrix is made of core matrices, 8 lines of 16 bytes. Which core matrix follows which is told by two offsets, and a swizzle
spreads their lines over the banks. "K-major" matrices have neighbours along the contraction next to each other, "MN-major" ones
along the rows of A or the columns of B.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from treadle.codegen.ptxsim.swizzle import swizzled

_SPAN = (16, 128, 64, 32)  # by the two highest bits
_RESERVED = 0b11 << 14 | 0b11 << 30 | 0b111 << 46 | 0x3FF << 52


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A matrix in the shared memory of the executing CTA; all in bytes."""

    start: int
    leading: int
    stride: int
    span: int  # of the swizzle; 16: none
    base_offset: int = 0
    reserved: int = 0

    @property
    def fault(self) -> str | None:
        """Why the machine refuses it, if it does."""
        if self.reserved:
            return f"reserved bits of the matrix descriptor are set: {self.reserved:#x}"
        if self.base_offset:
            return f"a matrix descriptor with base offset {self.base_offset}: only patterns on their own boundary are modelled"
        return None

    def chunks(self, lines: int, depth_bytes: int, k_major: bool) -> np.ndarray:
        """Addresses of the matrix's 16-byte chunks, swizzled.

        K-major: (lines, chunks of a line); MN-major: (depth, chunks along the lines), where a depth is two bytes.
        """
        return swizzled(self.start + _offsets(self.leading, self.stride, self.span, lines, depth_bytes, k_major), self.span)


def decode(word: int) -> Descriptor:
    """The fields of a descriptor."""
    return Descriptor(
        start=(word & 0x3FFF) << 4,
        leading=(word >> 16 & 0x3FFF) << 4,
        stride=(word >> 32 & 0x3FFF) << 4,
        span=_SPAN[word >> 62 & 3],
        base_offset=word >> 49 & 7,
        reserved=word & _RESERVED,
    )


def encode(d: Descriptor) -> int:
    """The word of a descriptor; addresses beyond 256 KiB lose their high bits, as in the ISA's formula."""
    fields = ((d.start, 0), (d.leading, 16), (d.stride, 32))
    word = sum(((value & 0x3FFFF) >> 4) << shift for value, shift in fields)
    return word | d.base_offset << 49 | _SPAN.index(d.span) << 62


@lru_cache(maxsize=256)
def _offsets(leading: int, stride: int, span: int, lines: int, depth_bytes: int, k_major: bool) -> np.ndarray:
    if k_major:
        line = np.arange(lines)[:, None]
        chunk = np.arange(depth_bytes // 16)[None, :]
        along = leading if span == 16 else 16  # within a swizzled row the next chunk is the neighbour
        return line % 8 * span + line // 8 * stride + chunk * along
    k = np.arange(depth_bytes // 2)[:, None]
    chunk = np.arange(lines // 8)[None, :]
    if span == 16:
        return k % 8 * 16 + k // 8 * leading + chunk * stride
    across = span // 16
    return k % 8 * span + k // 8 * stride + chunk % across * 16 + chunk // across * leading
