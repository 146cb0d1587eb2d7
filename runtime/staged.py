"""Sessions on a device that stands in for a GPU: arrays stay on the host, and are copied there and back."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import tvm_ffi

from treadle.errors import ArgumentError, BundleError, DeviceError
from treadle.runtime import cuda
from treadle.runtime.bundle import Bundle
from treadle.runtime.devices import code_for
from treadle.runtime.dlpack import CUDA, amended
from treadle.runtime.library import restated
from treadle.runtime.session import Session
from treadle.runtime.signature import Signature

_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_OUT_OF_MEMORY = 2


class StagedSession(Session):
    """A Session whose kernels run in the stand-in that `cuda.stand_in` was given: `ptx:ARCH`.

    It takes and gives arrays of the host. A call returns when its kernels have run.
    """

    def __init__(self, bundle: Bundle, device: str) -> None:
        code_for(bundle, device)
        ptx = f"sources/{device.partition(':')[2]}.ptx"
        if not (bundle.path / ptx).is_file():
            raise BundleError(
                f"bundle {bundle.path}: has no PTX, which device {device} runs",
                given=f"no {ptx}",
                expected="the bundle as it was written",
                hint=f"Copy the bundle again, or rebuild it with `treadle compile ... -o {bundle.path}`.",
            )
        super().__init__(bundle, "cuda:0")
        self.device = device
        self._host = {entry.name: Signature(entry, bundle.manifest.dims) for entry in bundle.manifest.entries}

    def run(
        self,
        /,
        entry: str | None = None,
        out: Mapping[str, Any] | None = None,
        stream: Any = None,
        **inputs: Any,
    ) -> dict[str, Any]:
        """Run an entry point (the first unless named) on arrays of the host, and return its outputs by name."""
        if stream is not None:
            raise ArgumentError("stream= is for CUDA sessions", given=type(stream).__name__, expected=f"none on {self.device}")
        runner = self._runner(entry)
        signature = self._host[runner.signature.name]
        bound = signature.bind(inputs)
        results, tensors = signature.allocate(bound) if out is None else signature.accept(out, bound)
        updated = [i for i, argument in enumerate(signature.inputs) if argument.name in signature.updates]
        with self._lock, staged([*bound.tensors, *tensors], len(tensors), updated) as there, default_stream():
            self._require_open()
            try:
                runner.function(self._handle, *there)
            except Exception as wrong:
                raise restated(wrong, signature.name) from wrong
        return results


@contextmanager
def default_stream() -> Iterator[None]:
    with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda:0"), 0):
        yield


@contextmanager
def staged(
    tensors: Sequence[tvm_ffi.Tensor], results: int, updated: Sequence[int] = ()
) -> Iterator[list[tvm_ffi.Tensor]]:
    """Device tensors like those of the host, of which the last `results` are copied back at the end, the others there first.

    Those at the places `updated` are copied both ways.
    Results start as NaN, or -1, in every element, so that one nobody wrote shows; to the machine they are unwritten.
    """
    with ExitStack() as keep:
        made = [_Staged(tensor, keep) for tensor in tensors]
        given, taken = made[: len(made) - results], made[len(made) - results :]
        for tensor in given:
            tensor.copy(_TO_DEVICE)
        for tensor in taken:
            tensor.memory[:] = 0xFF
        yield [tensor.tensor for tensor in made]
        for tensor in (*taken, *(made[i] for i in updated)):
            tensor.copy(_TO_HOST)


class _Staged:
    """One tensor on the host and its twin on the device, whose memory this process can see."""

    def __init__(self, host: tvm_ffi.Tensor, keep: ExitStack) -> None:
        self.bytes = math.prod(host.shape) * host.dtype.itemsize
        self.host = host.data_ptr()
        data = ctypes.c_void_p()
        _call("cudaMalloc", ctypes.byref(data), ctypes.c_size_t(self.bytes))
        keep.callback(cuda.load_runtime().cudaFree, data)
        self.data = data
        self.memory = np.frombuffer((ctypes.c_char * self.bytes).from_address(data.value or 0), np.uint8)
        bits = self.memory.view(f"u{host.dtype.itemsize}").reshape(tuple(host.shape))
        capsule = bits.__dlpack__(max_version=(1, 0))
        self.tensor = tvm_ffi.from_dlpack(amended(capsule, host.dtype.type_code, (CUDA, 0)))

    def copy(self, kind: int) -> None:
        """There or back."""
        to, source = (self.data, self.host) if kind == _TO_DEVICE else (self.host, self.data)
        _call("cudaMemcpy", ctypes.c_void_p(to) if isinstance(to, int) else to,
              ctypes.c_void_p(source) if isinstance(source, int) else source, ctypes.c_size_t(self.bytes), kind)  # fmt: skip


def _call(function: str, *args: Any) -> None:
    runtime = cuda.load_runtime()
    if code := getattr(runtime, function)(*args):
        runtime.cudaGetErrorString.restype = ctypes.c_char_p
        text = runtime.cudaGetErrorString(code).decode(errors="replace")
        what = "no memory on the device that stands in" if code == _OUT_OF_MEMORY else f"the device that stands in refuses {function}"
        raise DeviceError(what, given=text)
