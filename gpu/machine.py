"""Whether this machine can run the kit at all: python3 machine.py DEVICE [--wheels]. Needs only Python's own library.

Prints one sentence and exits with 1 where it cannot. With --wheels this Python must also suit the kit's wheels.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Sequence

_NO_DEVICE = 100


def no_python(version: Sequence[int] = sys.version_info) -> str | None:
    """What this Python lacks, in a sentence."""
    if tuple(version[:2]) != (3, 12):
        return f"the kit's wheels are for Python 3.12, and python3 is {version[0]}.{version[1]}"
    return None if importlib.util.find_spec("torch") else "python3 has no torch; the kit needs one built for CUDA 13"


def no_gpu(index: int) -> str | None:
    """Why that GPU cannot be used, in a sentence."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no GPU here: no NVIDIA driver (libcuda.so.1) is installed"
    count = ctypes.c_int()
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code not in (0, _NO_DEVICE):
        return f"the NVIDIA driver refuses to start: CUDA error {code}"
    if count.value == 0:
        return "there is no GPU here: the NVIDIA driver finds none"
    return f"there is no GPU {index} here: the NVIDIA driver finds {count.value}" if index >= count.value else None


def main(device: str, *options: str) -> None:
    kind, _, index = device.partition(":")
    lacking = no_gpu(int(index or 0)) if kind == "cuda" else None
    if not lacking and "--wheels" in options:
        lacking = no_python()
    if lacking:
        raise SystemExit(f"run.sh: {lacking}")


if __name__ == "__main__":
    main(*sys.argv[1:])
