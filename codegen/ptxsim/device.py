"""A device of the machine's own, for Python: arrays in its memory, and launches on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from treadle.codegen.ptxsim import grid as grids
from treadle.codegen.ptxsim.device_memory import DeviceMemory
from treadle.codegen.ptxsim.pages import reserve
from treadle.codegen.ptxsim.syntax import Module
from treadle.errors import ArchError, ArgumentError

_BASE = 0x7000_0000_0000
_ALIGN = 256


class DeviceArray:
    """An array in device memory; `pointer` is what a kernel takes."""

    def __init__(self, device: Device, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.device, self.pointer, self.shape, self.dtype = device, pointer, shape, dtype
        self.bytes = int(np.prod(shape)) * dtype.itemsize

    def numpy(self) -> np.ndarray:
        """A copy on the host."""
        at = self.pointer - _BASE
        return self.device.memory.buffer[at : at + self.bytes].view(self.dtype).reshape(self.shape).copy()

    def set(self, values: np.ndarray) -> None:
        """Overwrite it from the host."""
        at = self.pointer - _BASE
        raw = np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8)
        self.device.memory.buffer[at : at + self.bytes] = raw
        self.device.memory.written(self.pointer, self.bytes)

    def free(self) -> None:
        """Give it back: kernels may not touch it any more."""
        self.device.memory.free(self.pointer)


class Device:
    """Memory of `bytes` bytes, and the seed and processes that launches use unless told."""

    def __init__(self, arch: str = "sm_90a", bytes: int = 256 << 20, seed: int = 0, jobs: int = 1) -> None:
        self.arch, self.seed, self.jobs = arch, seed, jobs
        self.memory = DeviceMemory(reserve(-(-bytes // 4096) * 4096, shared=True), _BASE)
        self._next = _BASE + _ALIGN
        self.executed = 0  # thread-instructions, of all launches

    def empty(self, shape: Sequence[int] | int, dtype: Any = np.float32) -> DeviceArray:
        """An array that nobody has written."""
        dims = (shape,) if isinstance(shape, int) else tuple(shape)
        made = DeviceArray(self, self._next, dims, np.dtype(dtype))
        if made.bytes == 0 or self._next + made.bytes > _BASE + len(self.memory.buffer) - DeviceMemory.TOP:
            raise ArgumentError("no such array", given=f"{made.bytes} bytes", expected="1 byte at least, and room for it")
        self.memory.allocate(made.pointer, made.bytes)
        self._next += -(-made.bytes // _ALIGN) * _ALIGN + _ALIGN  # never to its neighbour's first byte
        return made

    def array(self, values: np.ndarray) -> DeviceArray:
        """A copy of an array."""
        made = self.empty(values.shape, values.dtype)
        made.set(values)
        return made

    def launch(
        self, module: Module, kernel: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared: int = 0,
        cluster: Sequence[int] | None = None, seed: int | None = None, jobs: int | None = None, budget: int = grids.BUDGET,
    ) -> int:  # fmt: skip
        """Run a kernel: arrays go as pointers, numpy scalars and bytes as they are."""
        if module.target.rstrip("af") > self.arch.rstrip("af") or (module.target[-1] == "a" and module.target != self.arch):
            raise ArchError(f"module {module.name}", given=module.target, expected=f"code that {self.arch} runs")
        params = [_bytes(a) for a in args]
        made = grids.launch(
            module, kernel, grid, block, params, self.memory, shared, cluster,
            self.seed if seed is None else seed, self.jobs if jobs is None else jobs, budget,
        )  # fmt: skip
        self.executed += made
        return made


def _bytes(argument: Any) -> bytes:
    if isinstance(argument, DeviceArray):
        return argument.pointer.to_bytes(8, "little")
    if isinstance(argument, np.generic):
        return argument.tobytes()
    if isinstance(argument, (bytes, bytearray)):
        return bytes(argument)
    raise ArgumentError(
        "no such kernel argument", given=type(argument).__name__, expected="an array of the device, a numpy scalar or bytes"
    )
