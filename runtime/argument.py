"""The checks of one tensor argument, prepared once and run on every call."""

from __future__ import annotations

from itertools import accumulate
from operator import mul
from typing import Any

import tvm_ffi

from treadle.dtypes import DTYPES
from treadle.errors import AlignmentError, ArgumentError, DeviceError
from treadle.runtime.manifest import TensorSpec
from treadle.runtime.sizes import size_expr
from treadle.runtime.stream import UNORDERED
from treadle.runtime.tensors import TORCH, Framework


class Argument:
    """One tensor of the entry with its checks prepared."""

    def __init__(self, entry: str, role: str, spec: TensorSpec, alignment: int = 1) -> None:
        self.spec = spec
        self.name = spec.name
        self.where = f"{entry}: {role} {spec.name!r}"
        self.rank = len(spec.shape)
        self.shape = [size_expr(size) for size in spec.shape]
        self.dtype = DTYPES[spec.dtype]
        self.alignment = max(spec.alignment, self.dtype.itemsize, alignment)
        #: axes that state a dim outright, and the others
        self.dims = [(axis, size.text) for axis, size in enumerate(self.shape) if size.is_name]
        self.sizes = [(axis, size) for axis, size in enumerate(self.shape) if not size.is_name]

    def check(self, array: Any, framework: Framework, device: str) -> tuple[int, ...]:
        """All that can be checked without knowing the sizes; returns the shape."""
        dtype, shape, on, contiguous = framework.facts(array)
        if dtype != self.spec.dtype:
            cast = ".to(torch.{})" if framework is TORCH else ".astype({!r})"
            raise ArgumentError(
                f"{self.where} has the wrong dtype",
                given=framework.dtype_text(array),
                expected=self.spec.dtype,
                hint=f"Cast it with {self.name}{cast.format(self.spec.dtype)}",
            )
        if len(shape) != self.rank:
            raise ArgumentError(
                f"{self.where} has the wrong rank",
                given=f"{len(shape)} axes, shape {_shape(shape)}",
                expected=f"{self.rank} axes, shape {_shape(self.spec.shape)}",
            )
        if on != device:
            raise DeviceError(
                f"{self.where} is on another device than the session",
                given=on,
                expected=device,
                hint=f"Move it there with {self._moved(framework, device)}, or load the bundle with device={on!r}.",
            )
        if not contiguous:
            raise ArgumentError(
                f"{self.where} is not contiguous",
                given=f"strides {_shape(framework.strides(array))} for shape {_shape(shape)}",
                expected=f"strides {_shape(compact_strides(shape))}",
                hint=f"Make it compact: {framework.copy_advice}.",
            )
        return shape

    def convert(self, array: Any, framework: Framework, stream: int = UNORDERED) -> tvm_ffi.Tensor:
        tensor = framework.tensor(array, stream)
        pointer = tensor.data_ptr()
        if pointer % self.alignment and tensor.numel():
            raise AlignmentError(
                f"{self.where} starts at an address the kernels cannot use",
                given=f"{pointer:#x}, aligned to {pointer & -pointer} bytes",
                expected=f"a multiple of {self.alignment} bytes",
                hint="Copy it into fresh memory.",
            )
        return tensor

    def _moved(self, framework: Framework, device: str) -> str:
        tensor = self.name if framework is TORCH else f"torch.from_dlpack({self.name})"
        return f'{tensor}.to("{device}")'

    def span(self, tensor: tvm_ffi.Tensor) -> range:
        """The addresses the converted tensor occupies."""
        start = tensor.data_ptr()
        return range(start, start + tensor.numel() * self.dtype.itemsize)

    def check_size(self, axis: int, given: tuple[int, ...], want: int) -> None:
        if given[axis] != want:
            raise ArgumentError(
                f"{self.where} has the wrong size in axis {axis}",
                given=f"{given[axis]}, shape {_shape(given)}",
                expected=f"{want}, shape {_shape(self.spec.shape)}",
            )


def compact_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides, in elements."""
    return tuple(accumulate(shape[:0:-1], mul, initial=1))[: len(shape)][::-1]


def _shape(sizes: tuple[int, ...] | tuple[str, ...]) -> str:
    return f"({', '.join(map(str, sizes))})"
