"""The device that our test cases ask for, by the PTX machine."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from treadle.codegen import ptxsim
from treadle.codegen.ptxsim import tensor_map

from . import kernels

TYPES = {
    np.dtype(np.uint8): "u8", np.dtype(np.int16): "u16", np.dtype(np.float32): "f32", np.dtype(ml_dtypes.bfloat16): "bf16"
}  # fmt: skip


class Machine:
    """One source, with one of its bugs or none; all launches by one seed of the scheduler."""

    def __init__(self, source: str, bug: int = 0, seed: int = 0) -> None:
        self.module = kernels.module(source, bug)
        self.device = ptxsim.Device(bytes=16 << 20, seed=seed)

    def array(self, values: np.ndarray) -> Any:
        return self.device.array(values)

    def empty(self, shape: tuple[int, ...] | int, dtype: Any) -> Any:
        return self.device.empty(shape, dtype)

    def read(self, array: Any) -> np.ndarray:
        return array.numpy()

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: list[Any], shared: int = 0, cluster: int = 0
    ) -> None:
        self.device.launch(self.module, kernel, grid, block, args, shared, (cluster, 1, 1) if cluster else None)

    def tensor_map(self, array: Any, box: tuple[int, ...], span: int = 0, nan: bool = False) -> bytes:
        """Of a whole array; the box innermost first."""
        return tensor_map.encode(
            TYPES[array.dtype], array.pointer, array.shape[::-1], strides_of(array), box, span=span or 16, nan_fill=nan
        )


def strides_of(array: Any) -> list[int]:
    """Bytes from one element to the next along each dimension but the innermost, the inner ones first."""
    strides: list[int] = np.cumprod([array.dtype.itemsize, *array.shape[:0:-1]])[1:].tolist()
    return strides
