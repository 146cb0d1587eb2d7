"""The machine's copy bandwidth: what a kernel that only moves bytes can reach, in bytes read plus bytes written."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

from treadle.bench.machine import last_level_cache
from treadle.bench.native import compiled
from treadle.bench.timing import interleave
from treadle.errors import DeviceError

METHODS = ("memcpy", "AVX", "non-temporal AVX")
#: Whose stores go through the caches, so that a line is read before it is overwritten; memcpy of this size picks for itself.
PLAIN = "AVX"


class Copy:
    """Two arrays of at least four times the last-level cache, and the fastest of three ways to copy one to the other.

    A context manager; `once` is a candidate for `interleave`, `bytes` what one call reads and writes.
    """

    def __init__(self) -> None:
        self._keep = ExitStack()
        library = ctypes.CDLL(str(compiled("copy.cc", ("-mavx2", "-fPIC", "-shared"), self._keep)))
        library.copy_new.restype = ctypes.c_void_p
        library.copy_new.argtypes = [ctypes.c_size_t, ctypes.POINTER(ctypes.c_int), ctypes.c_int]
        library.copy_run.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.copy_free.argtypes = [ctypes.c_void_p]
        cpus = sorted(os.sched_getaffinity(0))
        part = -(-4 * last_level_cache() // len(cpus) // 4096) * 4096
        self.array_bytes = part * len(cpus)
        self.bytes = 2 * self.array_bytes
        self.threads = len(cpus)
        self._run: Callable[[int, int], None] = library.copy_run
        self._handle = library.copy_new(self.array_bytes, (ctypes.c_int * len(cpus))(*cpus), len(cpus))
        if not self._handle:
            raise DeviceError(
                "no memory to measure copy bandwidth", given=f"two arrays of {self.array_bytes} B", expected="as much free"
            )
        self._keep.callback(library.copy_free, self._handle)
        seconds = interleave({m: partial(self._run, self._handle, i) for i, m in enumerate(METHODS)}, rounds=3)
        self.method = min(METHODS, key=lambda m: seconds[m].median)

    def once(self) -> None:
        """Copy the array once, the fastest way."""
        self._run(self._handle, METHODS.index(self.method))

    def plain(self) -> None:
        """Copy the array once with ordinary loads and stores."""
        self._run(self._handle, METHODS.index(PLAIN))

    def bandwidth(self) -> float:
        """Bytes per second, measured now."""
        return self.bytes / interleave({"copy": self.once})["copy"].median

    def facts(self, bandwidth: float) -> dict[str, Any]:
        """What a report records beside the figure."""
        return {
            "bytes_per_second": bandwidth,
            "method": self.method,
            "threads": self.threads,
            "array_bytes": self.array_bytes,
        }

    def remark(self, bandwidth: float) -> str:
        return f"copy bandwidth {bandwidth / 1e9:.1f} GB/s ({self.method}, {self.threads} threads)"

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._keep.close()
