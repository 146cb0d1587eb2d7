"""Threads that stand at the same instruction and execute it together."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

WARP = 32


class Gang:
    """Ascending indices of threads into the cohort, as an index (`sel`) that is a slice where they are contiguous."""

    def __init__(self, threads: NDArray[np.intp]) -> None:
        self.threads = threads
        self.n = n = len(threads)
        first = int(threads[0])
        self.sel: slice | NDArray[np.intp] = slice(first, first + n) if threads[-1] - first == n - 1 else threads

    def narrow(self, mask: NDArray[np.bool_]) -> Gang:
        """Those of the threads that a mask over them keeps; at least one."""
        return Gang(self.threads[mask])

    @cached_property
    def warp_of(self) -> NDArray[np.intp]:
        """Each thread's warp, counted through the cohort."""
        return self.threads // WARP

    @cached_property
    def lane_of(self) -> NDArray[np.intp]:
        """Each thread's lane."""
        return self.threads % WARP

    @cached_property
    def warps(self) -> NDArray[np.intp]:
        """The warps among them."""
        return np.unique(self.warp_of)
