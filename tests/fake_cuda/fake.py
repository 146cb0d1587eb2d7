"""The stand-in as tests see it: its log, its faults, and arrays in its device memory."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from treadle.dtypes import dtype as find_dtype
from treadle.runtime import Session
from treadle.runtime.cuda import load_runtime
from treadle.runtime.dlpack import _pointer, _Record

BUNDLE = Path(os.environ.get("FAKE_CUDA_BUNDLE", ""))
#: The bundle's kernels, in its plan's order.
ORDER = ["norm_layer_norm", "norm_layer_norm", "image_to_planes", "image_mean_pool"]
STREAM = 0x7000
_CUDA = 2  # DLPack's device type

runtime = load_runtime()
runtime.fake_log.restype = ctypes.c_char_p
runtime.fake_launches.restype = runtime.fake_live.restype = ctypes.c_long
runtime.fake_stream_number.argtypes = [ctypes.c_void_p, ctypes.c_ulonglong]
runtime.cudaFree.argtypes = [ctypes.c_void_p]


def log() -> list[str]:
    """What was called since the last look, one line a call."""
    lines = runtime.fake_log().decode().splitlines()
    runtime.fake_clear()
    return lines


def launched() -> list[str]:
    """The kernels among it, in order, by the name of their Program."""
    return [line.split()[1].rsplit("_", 2)[0] for line in log() if line.startswith("launch ")]


def fail(function: str, code: int, nth: int = 1) -> None:
    """The n-th call of a function from now fails with a CUDA error code."""
    runtime.fake_fail(function.encode(), nth, code)


def claim(monkeypatch: pytest.MonkeyPatch, **facts: int) -> None:
    """The device claims this of itself until the test ends."""
    claimed = " ".join(f"{name}={value}" for name, value in facts.items())
    monkeypatch.setenv("TREADLE_PTX_DEVICE", f"{claimed} {os.environ['TREADLE_PTX_DEVICE']}")


def live() -> int:
    """Allocations and events that nobody freed."""
    return runtime.fake_live()


@contextmanager
def capture() -> Iterator[None]:
    """Streams say that they are being captured; what a capture forbids fails, and nothing forbidden may be tried."""
    runtime.fake_capture(1)
    try:
        yield
        assert not runtime.fake_spoilt()
    finally:
        runtime.fake_capture(0)


class DeviceArray:
    """An array in the stand-in's memory that speaks DLPack and nothing else, as cupy's or jax's would."""

    def __init__(self, shape: tuple[int, ...], dtype: str = "float32", device: int = 0, offset: int = 0) -> None:
        self.device, self.dtype = device, find_dtype(dtype)
        self.streams: list[Any] = []  # what consumers asked to be ready on
        bytes_ = math.prod(shape) * self.dtype.itemsize
        data = ctypes.c_void_p()
        assert runtime.cudaMalloc(ctypes.byref(data), ctypes.c_size_t(bytes_ + offset)) == 0
        self._data = data.value
        memory = (ctypes.c_char * (bytes_ + offset)).from_address(self._data)
        self.host = np.frombuffer(memory, f"u{self.dtype.itemsize}", math.prod(shape), offset).reshape(shape)  # bits

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self.device

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None) -> Any:
        self.streams.append(stream)
        capsule = self.host.__dlpack__(max_version=(1, 0))
        record = _Record.from_address(_pointer(capsule, b"dltensor_versioned"))
        record.device_type, record.device_id, record.code = _CUDA, self.device, self.dtype.code
        return capsule

    def free(self) -> None:
        assert runtime.cudaFree(self._data) == 0


Pair: TypeAlias = tuple[DeviceArray, DeviceArray]


def run(session: Session, pair: Pair, on: Any = STREAM) -> Any:
    """Run the bundle from the first array into the second."""
    x, y = pair
    return session.run(x=x, out={"y": y}, stream=on)
