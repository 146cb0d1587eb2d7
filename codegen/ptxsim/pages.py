"""Memory that costs nothing until it is touched."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

_NORESERVE = 0x4000  # Linux's MAP_NORESERVE, which Python's mmap does not name


def reserve(bytes_: int, shared: bool = False) -> NDArray[np.uint8]:
    """Zeros; shared with processes that are forked later, or copied for them."""
    kind = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
    return np.frombuffer(mmap.mmap(-1, max(bytes_, 1), kind | mmap.MAP_ANONYMOUS | _NORESERVE), np.uint8)


def column(rows: int, shared: bool = False) -> NDArray[np.int64]:
    """Zeros, one per granule of memory."""
    return reserve(8 * rows, shared).view(np.int64)
