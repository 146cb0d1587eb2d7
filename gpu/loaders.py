"""What a library of route B needs beside tvm-ffi; the kit carries it in lib/."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from treadle.runtime import cuda

LOADERS = ("libtvm_runtime.so", "libtvm_runtime_cuda.so")


def load(folder: Path) -> None:
    """TVM's loader of CUDA modules, which registers itself; it finds the CUDA runtime that is in the process."""
    cuda.load_runtime()
    for name in LOADERS:
        ctypes.CDLL(str(folder / name), mode=os.RTLD_GLOBAL)
