"""python -m tests.ptxsim.on_gpu [CASE ...]: our test cases on CUDA device 0, from the same PTX, against the PTX machine.

All bits agree, except of approximations and of the sums inside mma and wgmma, which keep the bound that their case states. A
line per case; exit code 3 where one differs. By CUDA's own entry points alone, so that the stand-in can take CUDA's place.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import c_byte, c_uint, c_void_p
from functools import cache
from typing import Any

import numpy as np

from treadle.errors import DeviceError
from treadle.runtime import cuda

from . import kernels
from .cases import CASES, Case
from .on_machine import TYPES, Machine, strides_of

_TYPES = {"u8": 0, "u16": 1, "f32": 7, "bf16": 9}  # CUtensorMapDataType
_SPANS = {0: 0, 32: 1, 64: 2, 128: 3}  # CUtensorMapSwizzle
_MAX_DYNAMIC_SHARED, _CLUSTER_DIMENSION = 8, 4
_TO_DEVICE, _TO_HOST = 1, 2


class _Attribute(ctypes.Structure):
    _fields_ = [("id", c_uint), ("pad", c_uint), ("value", c_uint * 16)]


class _Config(ctypes.Structure):
    _fields_ = [
        ("grid", c_uint * 3), ("block", c_uint * 3), ("shared", c_uint), ("stream", c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)), ("count", c_uint),
    ]  # fmt: skip


def _call(library: ctypes.CDLL, name: str, *args: Any) -> None:
    if code := getattr(library, name)(*args):
        raise DeviceError(f"{name} on CUDA device 0", given=f"error {code}", expected="success")


@cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    cuda.find_device(0)
    runtime, driver = cuda.load_runtime(), ctypes.CDLL(cuda.DRIVER)
    _call(runtime, "cudaSetDevice", 0)
    _call(runtime, "cudaFree", None)  # makes the context that the driver's calls then use
    return runtime, driver


class Array:
    """An array in device memory, for as long as the process lives."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.bytes = int(np.prod(shape)) * self.dtype.itemsize
        at = c_void_p()
        _call(_libraries()[0], "cudaMalloc", ctypes.byref(at), ctypes.c_size_t(self.bytes))
        self.pointer = at.value or 0


class Gpu:
    """The device that cases ask for."""

    def __init__(self, source: str) -> None:
        self.runtime, self.driver = _libraries()
        self.module = c_void_p()
        _call(self.driver, "cuModuleLoadData", ctypes.byref(self.module), kernels.file(source).read_bytes() + b"\0")

    def array(self, values: np.ndarray) -> Array:
        made, host = Array(values.shape, values.dtype), np.ascontiguousarray(values)
        self._copy(made.pointer, host.ctypes.data, made.bytes, _TO_DEVICE)
        return made

    def empty(self, shape: tuple[int, ...] | int, dtype: Any) -> Array:
        return Array((shape,) if isinstance(shape, int) else shape, dtype)

    def read(self, array: Array) -> np.ndarray:
        host = np.empty(array.shape, array.dtype)
        self._copy(host.ctypes.data, array.pointer, array.bytes, _TO_HOST)
        return host

    def _copy(self, to: int, from_: int, count: int, way: int) -> None:
        _call(self.runtime, "cudaMemcpy", c_void_p(to), c_void_p(from_), ctypes.c_size_t(count), way)

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: list[Any], shared: int = 0, cluster: int = 0
    ) -> None:
        function = c_void_p()
        _call(self.driver, "cuModuleGetFunction", ctypes.byref(function), self.module, kernel.encode())
        _call(self.driver, "cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, shared)
        attribute = _Attribute(_CLUSTER_DIMENSION, 0, (cluster, 1, 1))
        sides = (c_uint * 3)(*grid, *[1] * (3 - len(grid))), (c_uint * 3)(*block, *[1] * (3 - len(block)))
        config = _Config(*sides, shared, None, ctypes.pointer(attribute), bool(cluster))
        held = [_bytes(a) for a in args]
        buffers = [(c_byte * len(h)).from_buffer_copy(h) for h in held]
        pointers = (c_void_p * len(buffers))(*[ctypes.addressof(b) for b in buffers])
        _call(self.driver, "cuLaunchKernelEx", ctypes.byref(config), function, pointers, None)
        _call(self.runtime, "cudaDeviceSynchronize")

    def tensor_map(self, array: Array, box: tuple[int, ...], span: int = 0, nan: bool = False) -> bytes:
        """Of a whole array; the box innermost first."""
        rank = len(array.shape)
        room = (c_byte * 192)()
        at = -ctypes.addressof(room) % 64  # a map starts at a multiple of 64 bytes
        _call(
            self.driver, "cuTensorMapEncodeTiled", ctypes.byref(room, at), _TYPES[TYPES[array.dtype]], rank,
            c_void_p(array.pointer), (ctypes.c_uint64 * rank)(*array.shape[::-1]), (ctypes.c_uint64 * rank)(*strides_of(array)),
            (c_uint * rank)(*box), (c_uint * rank)(*[1] * rank), 0, _SPANS[span], 0, int(nan),
        )  # fmt: skip
        return bytes(room)[at : at + 128]


def _bytes(argument: Any) -> bytes:
    if isinstance(argument, bytes):
        return argument
    number = np.uint64(argument.pointer) if isinstance(argument, Array) else argument
    assert isinstance(number, np.generic)
    return number.tobytes()


def differences(case: Case) -> list[str]:
    """Results of the case that are not as they have to be, each in words."""
    wrong = []
    for there, here in zip(case.run(Gpu(case.source)), case.run(Machine(case.source)), strict=True):
        if there.exact:
            agree = there.got.tobytes() == here.got.tobytes()
        else:
            assert there.within is not None
            agree = bool((np.abs(there.got.astype(np.float64) - there.expected) <= there.within).all())
        if not agree:
            most = np.abs(there.got.astype(np.float64) - here.got.astype(np.float64)).max()
            wrong.append(f"{there.name} is {most:.3g} away from the machine's")
    return wrong


def main(names: list[str]) -> int:
    """Run the cases named, or all."""
    bad = 0
    for name in names or CASES:
        wrong = differences(CASES[name])
        bad += bool(wrong)
        print(f"{name}: {'; '.join(wrong) or 'agrees'}")
    return 3 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
