"""The caller's arrays, as the kernels see them, without copying: numpy (with ml_dtypes), torch and all that speaks DLPack.

torch is never imported: it is only met through tensors that the caller already holds.
"""

from __future__ import annotations

import ctypes
import math
import sys
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import tvm_ffi

from treadle import dtypes
from treadle.errors import ArgumentError, DeviceError
from treadle.runtime.dlpack import amended
from treadle.runtime.stream import UNORDERED

#: Fresh outputs start on a cache line: a vector store then never splits one.
ALIGNMENT = 64

# The versioned DLPack record, which unlike the old one may carry a read-only array.
_VERSION = (1, 0)


class Facts(NamedTuple):
    """What can be said about an array before converting it."""

    dtype: str | None  #: None where it is no dtype of ours; `dtype_text` then says what it is
    shape: tuple[int, ...]
    device: str
    contiguous: bool


class Framework(ABC):
    """How one framework's arrays are inspected, converted and made."""

    copy_advice = "call .contiguous()"

    @abstractmethod
    def facts(self, array: Any) -> Facts:
        """Inspect, cheaply."""

    @abstractmethod
    def tensor(self, array: Any, stream: int = UNORDERED) -> tvm_ffi.Tensor:
        """The memory of a contiguous array as a tvm_ffi tensor, ready on `stream` in DLPack's numbering."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: dtypes.DType, device: str = "cpu") -> Any:
        """A new array with undefined contents."""

    @abstractmethod
    def strides(self, array: Any) -> tuple[int, ...]:
        """Strides in elements, for messages."""

    def dtype_text(self, array: Any) -> str:
        """The array's dtype in its framework's words, for messages."""
        return str(array.dtype)

    def writable(self, array: Any) -> bool:
        """False where the array must not be written."""
        return True


class _Numpy(Framework):
    copy_advice = "call numpy.ascontiguousarray"

    def facts(self, array: Any) -> Facts:
        dtype = dtypes.of_numpy(array.dtype)
        return Facts(dtype.name if dtype else None, array.shape, "cpu", array.flags.c_contiguous)

    def tensor(self, array: Any, stream: int = UNORDERED) -> tvm_ffi.Tensor:
        if array.dtype.isbuiltin == 1:  # ml_dtypes are 2, user defined, and not exportable
            capsule = array.__dlpack__(max_version=_VERSION)
            return tvm_ffi.from_dlpack(capsule if array.size else amended(capsule))
        dtype = dtypes.of_numpy(array.dtype)
        assert dtype is not None, "callers check the dtype first"
        bits = array.view(f"u{dtype.itemsize}").__dlpack__(max_version=_VERSION)
        return tvm_ffi.from_dlpack(amended(bits, dtype.code))

    def empty(self, shape: tuple[int, ...], dtype: dtypes.DType, device: str = "cpu") -> Any:
        return empty(shape, dtype.numpy)

    def strides(self, array: Any) -> tuple[int, ...]:
        return tuple(stride // array.dtype.itemsize for stride in array.strides)

    def dtype_text(self, array: Any) -> str:
        return f"big-endian {array.dtype}" if array.dtype.str[0] == ">" else str(array.dtype)

    def writable(self, array: Any) -> bool:
        return bool(array.flags.writeable)


class _Torch(Framework):
    @cached_property
    def _names(self) -> dict[Any, str]:
        torch = sys.modules["torch"]
        return {getattr(torch, name): name for name in dtypes.DTYPES}

    def facts(self, array: Any) -> Facts:
        device = "cpu" if array.is_cpu else str(array.device)
        name = self._names.get(array.dtype)
        return Facts(name, tuple(array.shape), device, array.is_contiguous())

    def tensor(self, array: Any, stream: int = UNORDERED) -> tvm_ffi.Tensor:
        if array.numel():
            return tvm_ffi.from_dlpack(array)
        return tvm_ffi.from_dlpack(amended(array.detach().__dlpack__(max_version=_VERSION)))

    def empty(self, shape: tuple[int, ...], dtype: dtypes.DType, device: str = "cpu") -> Any:
        try:
            import torch  # on CUDA, results for other frameworks' arrays are torch's too
        except ModuleNotFoundError:
            raise DeviceError(
                f"fresh results on {device} are torch tensors",
                given="no module torch",
                expected="torch, or run(..., out={name: array})",
                hint="pip install torch",
            ) from None
        return torch.empty(shape, dtype=getattr(torch, dtype.name), device=device)

    def strides(self, array: Any) -> tuple[int, ...]:
        return tuple(array.stride())


class _Dlpack(Framework):
    """Everything else; results come back as numpy, which any of them can take in, or on CUDA as torch tensors."""

    copy_advice = "copy it into contiguous memory"

    def facts(self, array: Any) -> Facts:
        tensor = _imported(array)
        name, device = str(tensor.dtype), str(tensor.device)
        return Facts(
            name if name in dtypes.DTYPES else None,
            tensor.shape,
            device.removesuffix(":0") if device.startswith("cpu") else device,
            tensor.is_contiguous(),
        )

    def tensor(self, array: Any, stream: int = UNORDERED) -> tvm_ffi.Tensor:
        tensor = _imported(array, stream)
        if tensor.numel():
            return tensor
        return tvm_ffi.from_dlpack(amended(tensor.__dlpack__(max_version=_VERSION)))

    def empty(self, shape: tuple[int, ...], dtype: dtypes.DType, device: str = "cpu") -> Any:
        return empty(shape, dtype.numpy)

    def strides(self, array: Any) -> tuple[int, ...]:
        return tuple(_imported(array).strides)

    def dtype_text(self, array: Any) -> str:
        return str(_imported(array).dtype)


def _imported(array: Any, stream: int = UNORDERED) -> tvm_ffi.Tensor:
    """Any DLPack array. On CUDA its producer is told the consuming stream: left out, it would order the default stream."""
    if array.__dlpack_device__()[0] == tvm_ffi.DLDeviceType.kDLCUDA:
        return tvm_ffi.from_dlpack(array.__dlpack__(stream=stream))
    return tvm_ffi.from_dlpack(array)


NUMPY, TORCH, DLPACK = _Numpy(), _Torch(), _Dlpack()
_FRAMEWORKS: dict[type, Framework] = {np.ndarray: NUMPY}


def framework_of(array: Any, where: str) -> Framework:
    """The framework of the caller's `array`; `where` names the argument for the message."""
    kind = type(array)
    if kind not in _FRAMEWORKS:
        _FRAMEWORKS[kind] = _recognise(array, where)
    return _FRAMEWORKS[kind]


def _recognise(array: Any, where: str) -> Framework:
    torch = sys.modules.get("torch")
    if isinstance(array, np.ndarray):
        return NUMPY
    if torch is not None and isinstance(array, torch.Tensor):
        return TORCH
    if hasattr(array, "__dlpack__") and not isinstance(array, np.generic):
        return DLPACK
    raise ArgumentError(
        f"{where} is not an array",
        given=type(array).__name__,
        expected="a numpy array, a torch tensor or another DLPack array",
        hint="Wrap it with numpy.asarray.",
    )


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """`numpy.empty`, but starting on a cache line (numpy itself promises 16 bytes)."""
    raw = np.empty(math.prod(shape) * dtype.itemsize + ALIGNMENT, np.uint8)
    start = ctypes.addressof(ctypes.c_char.from_buffer(raw.data))  # 5x faster than raw.ctypes.data
    return np.ndarray(shape, dtype, buffer=raw, offset=-start % ALIGNMENT)
